import copy
import pickle

import pytest
import torch
from tools import LinearField, tiny_unet
from torch import nn

from flowlit.frozen import Frozen


class Holder(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.student, self.teacher = nn.Linear(1, 1), Frozen(network)


def test_nothing_that_walks_over_modules_finds_it():
    holder, alone = Holder(LinearField()), nn.Linear(1, 1)
    assert len(holder.state_dict()) == len(alone.state_dict())
    assert len(list(holder.parameters())) == len(list(alone.parameters()))
    assert len(list(holder.modules())) == 2


def test_it_stays_in_eval_mode_for_ever():
    network = tiny_unet(dropout=0.5)
    holder = Holder(network).train()
    assert not any(module.training for module in network.modules())
    x, t = torch.randn(1, 1, 8, 8), torch.rand(1)
    assert torch.equal(holder.teacher(x, t), holder.teacher(x, t))


def test_its_parameters_take_no_gradient_but_its_input_does():
    network, x = LinearField(), torch.ones(2, 3, requires_grad=True)
    Frozen(network)(x, torch.zeros(2)).sum().backward()
    assert torch.allclose(x.grad, torch.full((2, 3), 0.3))
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())


def test_a_deep_copy_shares_it():
    holder = Holder(LinearField())
    twin = copy.deepcopy(holder)
    assert twin.student is not holder.student and twin.teacher is holder.teacher


def test_it_can_be_pickled():
    frozen, x = Frozen(LinearField(a=0.7)), torch.ones(1, 1)
    assert torch.equal(pickle.loads(pickle.dumps(frozen))(x, torch.zeros(1)), frozen(x, torch.zeros(1)))


def test_it_follows_its_input_to_another_device():
    frozen = Frozen(tiny_unet())
    x, t = torch.zeros(1, 1, 8, 8), torch.zeros(1)
    frozen(x, t)
    assert frozen(x.to("meta"), t.to("meta")).device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_it_follows_its_input_to_the_gpu_and_back():
    frozen, x, t = Frozen(LinearField()), torch.ones(1, 1), torch.zeros(1)
    assert frozen(x.cuda(), t.cuda()).is_cuda
    assert not frozen(x, t).is_cuda
