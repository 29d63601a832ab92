"""U-Nets at sizes that they were not trained on."""

import pytest
import torch

from flowlit.errors import FlowlitError
from flowlit.networks import ADM, EDM, ConcatenatedImage, DiT, UNet, at_size

SIZE = {"resolution": 8, "in_channels": 3, "dropout": 0.0}
MAKERS = {
    "UNet": lambda **more: UNet(
        **SIZE, **more, width=8, multipliers=[1, 2], blocks=1, attention_resolutions=[8]
    ),
    "ADM": lambda: ADM(
        **SIZE, width=64, multipliers=[1, 1], blocks=1, attention_resolutions=[4], num_classes=0
    ),
    "inside": lambda: ConcatenatedImage(MAKERS["UNet"]()),
    "denoiser": lambda: EDM(MAKERS["UNet"](time_scale=1.0)),
}


def trained(make):
    torch.manual_seed(0)
    network = make().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network


def velocity(network, x):
    cond = {"image": x.flip(-1)} if "image" in network.reads else {}
    with torch.no_grad():
        return network(x, torch.full((len(x),), 0.3), cond)


@pytest.mark.parametrize("make", MAKERS.values(), ids=list(MAKERS))
def test_a_network_at_another_size_has_the_same_weights(make):
    network = trained(make)
    other = at_size(network, 12, 6)
    x = torch.randn(2, 3, 12, 6)
    assert velocity(other, x).shape == x.shape and velocity(other, x).isfinite().all()
    assert network.shape == (3, 8, 8) and other.shape == (3, 12, 6)
    with pytest.raises(FlowlitError, match=r"built for images|expected that of x"):
        velocity(network, x)
    for mine, theirs in zip(network.parameters(), other.parameters(), strict=True):
        assert mine is theirs
    small = torch.randn(2, 3, 8, 8)
    assert torch.equal(velocity(at_size(other, 8, 8), small), velocity(network, small))


@pytest.mark.parametrize("make", MAKERS.values(), ids=list(MAKERS))
@pytest.mark.parametrize("size", [(7, 8), (8, 9), (0, 8), (-2, 8)])
def test_sizes_that_levels_do_not_divide_are_refused(make, size):
    with pytest.raises(FlowlitError, match="expected multiples of 2"):
        at_size(make(), *size)


def test_networks_of_one_size_are_refused():
    for network in (DiT(**SIZE, patch=2, width=8, depth=1, heads=2), torch.nn.Identity()):
        with pytest.raises(FlowlitError, match="alone; only"):
            at_size(network, 16, 16)


def test_the_stride_is_that_of_the_levels():
    for multipliers in ([1], [1, 1], [1, 1, 1]):
        network = UNet(**SIZE, width=8, multipliers=multipliers, blocks=1, attention_resolutions=[])
        assert network.stride == 2 ** (len(multipliers) - 1)
