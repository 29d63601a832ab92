"""A network whose first layer also takes an image."""

import copy

import pytest
import torch
from torch import nn

from flowlit.errors import FlowlitError
from flowlit.metrics.cost import count_macs, count_parameters
from flowlit.networks import ADM, EDM, ConcatenatedImage, DiT, UNet
from flowlit.networks.checkpoints.spec import build, spec

SMALL = {"resolution": 8, "in_channels": 3, "dropout": 0.0}


def unet(**arguments):
    size = {"width": 8, "multipliers": [1, 2], "blocks": 1, "attention_resolutions": []}
    return UNet(**SMALL, **size, **arguments)


MAKERS = {
    "UNet": unet,
    "ADM": lambda: ADM(**SMALL, width=8, multipliers=[1], blocks=1, attention_resolutions=[], num_classes=0),
    "DiT": lambda: DiT(**SMALL, patch=2, width=8, depth=1, heads=2),
    "labels and a second time": lambda: unet(num_classes=3, second_time=True),
}


def trained(make):
    """A network that is not 0."""
    torch.manual_seed(0)
    network = make().double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def arguments(network):
    cond = {"label": torch.tensor([0, 2])} if "label" in network.reads else {}
    return torch.randn(2, 3, 8, 8).double(), torch.tensor([0.2, 0.7]), cond


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_it_is_at_first_the_network_inside(make):
    network = trained(make)
    x, t, cond = arguments(network)
    expected = network(x, t, cond)
    parameters = count_parameters(network)
    reads = network.reads
    wrapper = ConcatenatedImage(network)
    assert wrapper.shape == (3, 8, 8) and wrapper.reads == reads | {"image"}
    image = torch.randn_like(x)
    torch.testing.assert_close(wrapper(x, t, {**cond, "image": image}), expected)
    stem = getattr(network.stem, "proj", network.stem)
    assert count_parameters(wrapper) == parameters + stem.weight[:, 3:].numel()
    assert stem.weight.shape[1] == stem.in_channels == 6
    wrapper(x, t, {**cond, "image": image}).square().sum().backward()
    assert stem.weight.grad[:, 3:].abs().amax() > 0
    with torch.no_grad():
        stem.weight[:, 3:].normal_()
    assert (wrapper(x, t, {**cond, "image": image}) - expected).abs().amax() > 1e-3


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_checkpoint_builds_it_again(make):
    wrapper = ConcatenatedImage(trained(make))
    again = build(spec(wrapper), nn.Module).double()
    again.load_state_dict(wrapper.state_dict())
    x, t, cond = arguments(wrapper)
    cond = {**cond, "image": torch.randn_like(x)}
    assert torch.equal(again(x, t, cond), wrapper(x, t, cond))
    assert torch.equal(copy.deepcopy(wrapper)(x, t, cond), wrapper(x, t, cond))


def test_it_stands_inside_other_wrappers():
    wrapper = EDM(ConcatenatedImage(unet(time_scale=1.0)))
    assert wrapper.reads == {"image"} and wrapper.shape == (3, 8, 8)
    x = torch.randn(2, 3, 8, 8)
    assert wrapper(x, torch.tensor([0.2, 1.0]), {"image": x}).isfinite().all()


def test_wrong_conditions_are_refused():
    network = ConcatenatedImage(unet())
    x = torch.randn(2, 3, 8, 8)
    t = torch.zeros(2)
    with pytest.raises(FlowlitError, match='cond has no "image"'):
        network(x, t)
    with pytest.raises(FlowlitError, match=r"shape \(2, 3, 2, 2\); expected that of x, \(2, 3, 8, 8\)"):
        network(x, t, {"image": x[..., :2, :2]})
    with pytest.raises(FlowlitError, match="cond has text"):
        network(x, t, {"image": x, "text": x})


@pytest.mark.parametrize("make", [lambda: nn.Conv2d(3, 3, 1), lambda: EDM(unet(time_scale=1.0)), nn.Identity])
def test_networks_without_a_stem_are_refused(make):
    with pytest.raises(FlowlitError, match="has no convolution stem"):
        ConcatenatedImage(make())


def test_its_cost_is_that_of_the_network_inside_and_of_the_wider_layer():
    plain = unet()
    inside = count_macs(plain).layers
    assert count_macs(ConcatenatedImage(plain)).layers == inside + 3 * 8 * 9 * 8 * 8
