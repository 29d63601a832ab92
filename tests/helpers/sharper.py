"""A network of super-resolution of two layers, and images to enlarge."""

import torch
from tools import randomise
from torch import nn

from flowlit.couplings import NoisedImage
from flowlit.data import Bicubic, Pixels
from flowlit.generators import Generator
from flowlit.generators.upscaling import describe_task
from flowlit.solvers import OneStep


class Sharper(nn.Module):
    """A velocity of few layers that reads an image, and t."""

    reads = frozenset({"image"})

    def __init__(self, channels=3, tile=16):
        super().__init__()
        self.shape = (channels, tile, tile)
        self.first = nn.Conv2d(2 * channels, 8, 3, padding=1)
        self.last = nn.Conv2d(8, channels, 3, padding=1)

    def forward(self, x, t, cond={}):
        h = self.first(torch.cat((x, cond["image"]), 1)) + t[:, None, None, None]
        return self.last(nn.functional.silu(h))


def sharper(degradation=None, solver=None, **options):
    network = randomise(Sharper(**options), 1)
    describe_task(network, degradation or Bicubic(2), NoisedImage(0.3))
    return Generator(network.eval(), solver or OneStep(0.5), Pixels())


def photo(*shape):
    levels = torch.randint(256, shape, generator=torch.Generator().manual_seed(0))
    return levels.float() / 255
