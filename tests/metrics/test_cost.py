"""Parameters and multiplications of networks."""

import tiny
import torch
from tools import tiny_unet
from torch import nn

from flowlit.metrics.cost import count_macs, count_parameters
from flowlit.networks.layers import Attention


def test_count_parameters():
    assert count_parameters(torch.nn.Linear(3, 4)) == 16


class Told(nn.Module):
    """A network of parts that are applied one after another."""

    def __init__(self, *parts, shape=(4, 6, 6), look=False):
        super().__init__()
        self.parts, self.shape, self.look = nn.ModuleList(parts), shape, look

    def forward(self, x, t, cond={}):
        if self.look and float(t.max()) > 2:
            raise AssertionError
        for part in self.parts:
            x = part(x)
        return x


def test_macs_by_hand():
    macs = count_macs(Told(nn.Conv2d(4, 8, 3, padding=1), Attention(8), nn.Conv2d(8, 4, 1)))
    assert macs.layers == 36 * (4 * 8 * 9 + 8 * 4)
    assert macs.projections == 36 * 4 * 8 * 8
    assert macs.products == 2 * 36 * 36 * 8
    assert macs.all == sum(macs)


def test_macs_of_a_network_that_looks_at_values():
    parts = nn.Conv2d(4, 8, 3, padding=1), Attention(8)
    assert count_macs(Told(*parts, look=True)) == count_macs(Told(*parts))


def test_nothing_to_multiply_is_nothing_counted():
    assert count_macs(Told(nn.SiLU())) == (0, 0, 0)


def test_counting_leaves_the_network_as_it_was():
    network = tiny_unet(num_classes=3).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert count_macs(network) == count_macs(tiny_unet(num_classes=3))
    assert network.training and tiny.same(before, network.state_dict())
    assert {tensor.device.type for tensor in [*network.parameters(), *network.buffers()]} == {"cpu"}


def test_an_image_costs_the_same_with_classes_but_for_its_label():
    assert count_macs(tiny_unet(num_classes=3)) == count_macs(tiny_unet())
