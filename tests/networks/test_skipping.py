"""Networks that leave blocks out for a while compute what they do without them for good."""

from __future__ import annotations

import threading
from copy import deepcopy

import pytest
import torch
from tools import randomise, tiny_unet
from torch import nn

from flowlit._support.batch_invariance import BatchInvariant
from flowlit._support.velocities import skipping
from flowlit.errors import FlowlitError
from flowlit.frozen import Frozen
from flowlit.metrics.cost import count_macs, shares
from flowlit.networks import ADM, EDM, ClassifierFreeGuidance, Pruned, Router
from flowlit.networks.activation_checkpointing import with_parts
from flowlit.networks.dit import DiT
from flowlit.networks.skipping import removable

SMALL = {"resolution": 8, "in_channels": 1, "width": 8, "multipliers": (1, 2), "blocks": 1}
NETWORKS = {
    "UNet": lambda: tiny_unet(num_classes=3, label_dropout=0.1, time_scale=1.0),
    "ADM": lambda: ADM(**SMALL, attention_resolutions=(8,), num_classes=3, label_dropout=0.1, time_scale=1.0),
    "DiT": lambda: DiT(8, 1, 2, 16, 3, 2, num_classes=3, label_dropout=0.1, time_scale=1.0),
}
AROUND = {
    "alone": lambda network: network,
    "guided": lambda network: ClassifierFreeGuidance(network, 2.0),
    "guided EDM": lambda network: ClassifierFreeGuidance(EDM(network), 1.5),
    "in blocks of rows": lambda network: BatchInvariant(ClassifierFreeGuidance(network, 2.0)),
    "frozen": Frozen,
}
X = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
T = torch.tensor([0.1, 0.5, 0.9])
COND = {"label": torch.tensor([0, 2, 1])}


def network(kind="UNet"):
    return randomise(NETWORKS[kind](), 1, scale=0.2).eval()


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("kind", NETWORKS)
@torch.no_grad()
def test_leaving_out_for_a_while_is_as_for_good_through_all_that_is_around(kind, around):
    whole = network(kind)
    names = removable(whole)[-2:]
    without = AROUND[around](Pruned(deepcopy(whole), names))
    velocity = AROUND[around](whole)
    before = velocity(X, T, COND)
    with skipping(velocity, names):
        inside = velocity(X, T, COND)
        with skipping(velocity, removable(whole)[:1]):
            assert not torch.equal(velocity(X, T, COND), inside)
        assert torch.equal(velocity(X, T, COND), inside)
    assert torch.equal(inside, without(X, T, COND)) and not torch.equal(inside, before)
    assert torch.equal(velocity(X, T, COND), before)


@torch.no_grad()
def test_other_threads_have_all_blocks_and_an_error_brings_them_back():
    whole = network()
    before = whole(X, T, COND)
    elsewhere = []

    def call():
        with torch.no_grad():
            elsewhere.append(whole(X, T, COND))

    with pytest.raises(KeyError), skipping(whole, ["bottleneck.0"]):
        other = threading.Thread(target=call)
        other.start()
        other.join()
        raise KeyError
    assert torch.equal(elsewhere[0], before) and torch.equal(whole(X, T, COND), before)


@pytest.mark.parametrize("kind", NETWORKS)
def test_shares_are_what_a_network_without_these_parts_saves(kind):
    whole = network(kind)
    names = removable(whole)
    saved = shares(whole, names)
    full = count_macs(whole).all
    for some in ([names[0]], names[-2:], names):
        left = count_macs(Pruned(deepcopy(whole), some)).all
        assert 1 - sum(saved[name] for name in some) == pytest.approx(left / full, abs=1e-3)


class OfTuples(nn.Module):
    """A network whose part returns a tuple, as those of diffusers do."""

    shape = (1, 8, 8)

    def __init__(self):
        super().__init__()
        self.part = nn.Conv2d(1, 1, 1)
        self.part.register_forward_hook(lambda part, inputs, output: (output,))

    def checkpointable(self):
        return [self.part]

    def forward(self, x, t, cond={}):
        return self.part(x)[0]


def test_a_part_that_returns_no_tensor_cannot_be_left_out():
    assert removable(OfTuples()) == []
    with pytest.raises(FlowlitError, match="'part' cannot be left out; expected some of no part"):
        Pruned(OfTuples(), ["part"])


def compiled(network):
    network._compiled_call_impl = lambda *arguments: network._call_impl(*arguments)
    return network


@pytest.mark.parametrize(
    ("velocity", "names", "expected"),
    [
        (network(), ["encoder.1"], "UNet: 'encoder.1' cannot be left out; expected some of encoder.0"),
        (network(), ["bottleneck.0", "head"], "'head' cannot be left out"),
        (lambda x, t, cond={}: -x, ["bottleneck.0"], "function cannot leave blocks out"),
        (Router([network()], [[0, 1, 2]]), ["bottleneck.0"], "Router cannot leave blocks out"),
        (compiled(network()), ["bottleneck.0"], "UNet is compiled, or replayed from CUDA graphs"),
        (compiled(ClassifierFreeGuidance(network(), 2.0)), ["bottleneck.0"], "Guidance is compiled"),
    ],
)
def test_what_cannot_be_left_out_is_refused(velocity, names, expected):
    with pytest.raises(FlowlitError, match=expected), skipping(velocity, names):
        pass
    with skipping(velocity, []):
        pass


def test_the_network_with_the_parts_is_the_innermost():
    inside = network()
    assert with_parts(ClassifierFreeGuidance(EDM(inside), 2.0)) is inside
