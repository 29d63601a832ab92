"""Time paths folded away: the same velocity at the one time, by fewer weights."""

from copy import deepcopy

import pytest
import torch
from matrix import few
from tools import randomise

from flowlit.errors import FlowlitError
from flowlit.networks import (
    ADM,
    EDM,
    ClassifierFreeGuidance,
    ConcatenatedImage,
    DiffusionVelocity,
    FixedTime,
    UNet,
)
from flowlit.networks.checkpoints.spec import build, spec
from flowlit.networks.dit import DiT
from flowlit.paths import ContinuousVP

LABELS = {"label": torch.tensor([2, 0, 1])}
END = {"r": torch.ones(3)}
SMALL = {"resolution": 8, "in_channels": 1, "width": 8, "multipliers": (1, 2), "blocks": 1}


def adm(**arguments):
    return ADM(**SMALL, attention_resolutions=(), **arguments)


def dit(**arguments):
    return DiT(8, 1, 2, 16, 2, 2, **arguments)


def unet(**arguments):
    return UNet(**SMALL, attention_resolutions=(), **arguments)


def guided(network):
    return ClassifierFreeGuidance(network, 2.5)


NETWORKS = {
    "UNet": (lambda: unet(), 0.0, {}),
    "UNet of classes": (lambda: unet(num_classes=3, label_dropout=0.1), 0.3, LABELS),
    "ADM": (lambda: adm(num_classes=0), 0.7, {}),
    "DiT of classes": (lambda: dit(num_classes=3), 0.25, LABELS),
    "guidance": (lambda: guided(unet(num_classes=3, label_dropout=0.1)), 0.0, LABELS),
    "EDM": (lambda: EDM(unet(time_scale=1.0, early_label=True, num_classes=3)), 0.0, LABELS),
    "a flow map": (lambda: unet(second_time=True), 0.0, END),
    "UNet without a label": (lambda: unet(num_classes=3, label_dropout=0.1), 0.3, {}),
    "more classes than a table pays for": (lambda: unet(num_classes=1000), 0.3, LABELS),
    "ADM of classes": (lambda: adm(num_classes=3), 0.0, LABELS),
    "DiT": (lambda: dit(positions="rotary"), 1.0, {}),
    "a diffusion": (lambda: DiffusionVelocity(unet(), ContinuousVP()), 0.4, {}),
    "an image": (
        lambda: ConcatenatedImage(unet(num_classes=3)),
        0.0,
        {**LABELS, "image": torch.ones(3, 1, 8, 8)},
    ),
}


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def both(name):
    make, t, cond = NETWORKS[name]
    network = randomise(make(), 3).double().eval()
    r = 1.0 if "r" in cond else None
    x = torch.randn(3, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return network, FixedTime(deepcopy(network), t, r).eval(), (x, torch.full((3,), t), cond)


@pytest.mark.parametrize("name", few(list(NETWORKS), 6))
def test_folding_is_exact_and_removes_weights(name):
    network, folded, arguments = both(name)
    with torch.no_grad():
        before = network(*arguments)
        after = folded(*arguments)
    assert before.abs().mean() > 0.01
    torch.testing.assert_close(after, before, rtol=0, atol=1e-6 * float(before.abs().max()))
    assert parameters(folded) < parameters(network)
    assert not any(".time." in key or "second_time" in key for key in folded.state_dict())
    assert folded.reads == network.reads


@pytest.mark.parametrize("name", few(["UNet of classes", "EDM", "DiT of classes", "a flow map"], 1))
def test_a_folded_network_is_built_again_from_its_spec(name):
    _network, folded, arguments = both(name)
    again = build(spec(folded), torch.nn.Module).double().eval()
    again.load_state_dict(folded.state_dict())
    with torch.no_grad():
        assert torch.equal(again(*arguments), folded(*arguments))


@pytest.mark.parametrize(("width", "before"), few([(96, 15_707_235), (64, 6_989_891), (128, 27_906_179)], 1))
def test_the_share_at_the_sizes_of_slimflow(width, before):
    """9.65 % in all three: widths 64 and 96 are the paper's students of CIFAR-10."""
    with torch.device("meta"):
        network = UNet(width=width)
        assert parameters(network) == before
        assert 1 - parameters(FixedTime(network)) / before == pytest.approx(0.0965, abs=5e-5)


def test_another_time_is_refused():
    _, folded, (x, t, cond) = both("a flow map")
    with pytest.raises(FlowlitError, match=r"folded for t = 0\.0, and is called at 0\.5"):
        folded(x, t + 0.5, cond)
    with pytest.raises(FlowlitError, match=r"folded for r = 1\.0, and is called at 0\.5"):
        folded(x, t, {"r": torch.full((3,), 0.5)})


def test_folding_twice_changes_nothing():
    _, folded, arguments = both("UNet of classes")
    with torch.no_grad():
        assert torch.equal(FixedTime(deepcopy(folded), 0.3)(*arguments), folded(*arguments))


def test_a_network_of_another_kind_stays_as_it_is():
    from tools import LinearField

    network = LinearField()
    folded = FixedTime(deepcopy(network), 0.0)
    assert parameters(folded) == parameters(network)
