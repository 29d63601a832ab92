"""States of optimizers under the strategy ``sharded``, here of a network that nothing divides."""

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam

from flowlit._engine.sharding import Sharded


def load(module, optimizer, saved):
    strategy = Sharded()
    strategy._lightning_module = module
    strategy.optimizers = [optimizer]
    strategy.load_optimizer_state_dict({"optimizer_states": [saved]})


def moved(make, lr):
    """A network after one step, whose gradients are left, and its optimizer."""
    torch.manual_seed(0)
    module = nn.Linear(2, 1)
    optimizer = make(module.parameters(), lr=lr)
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return module, optimizer


@pytest.mark.parametrize("make", [Adam, SGD])
def test_an_optimizer_that_has_no_state_yet_goes_on_without_one(make):
    """As that of a generator that waits: its first step is the first one."""
    module, optimizer = moved(make, 0.1)
    load(module, optimizer, make(nn.Linear(2, 1).parameters(), lr=0.5).state_dict())
    assert not optimizer.state
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert optimizer.param_groups[0]["params"] == list(module.parameters())


def test_moments_are_those_of_the_checkpoint():
    module, optimizer = moved(Adam, 0.1)
    _, other = moved(Adam, 0.5)
    other.step()
    load(module, optimizer, other.state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.5
    before, after = other.state_dict()["state"], optimizer.state_dict()["state"]
    assert before.keys() == after.keys() and before[0]["step"] == 2
    for number, state in before.items():
        assert all(torch.equal(after[number][name], value) for name, value in state.items())
