"""Rewards of images in closed form."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from ...errors import FlowlitError
from ...ranges import Float, number
from ...types import Cond
from ..distances import per_sample
from .base import Reward

TINY = 1e-12
"""Under roots, whose slope at 0 would be infinite."""

if TYPE_CHECKING:
    Quality: TypeAlias = int
else:
    Quality = number(int, "from 1 to 100", lambda value: 1 <= value <= 100)


class Colourfulness(Reward):
    """Colourfulness of RGB images by Hasler and Süsstrunk 2003: 0 for grey ones, in units of [-1, 1]."""

    def forward(self, x: Tensor, cond: Cond = {}) -> Tensor:
        """Return the rewards (B,) of images x (B, 3, H, W)."""
        red, green, blue = _rgb(x, self).unbind(1)
        opponents = torch.stack([red - green, (red + green) / 2 - blue], 1).flatten(2)
        deviation = opponents.var(2, correction=0).sum(1)
        mean = opponents.mean(2).square().sum(1)
        return (deviation + TINY).sqrt() + 0.3 * (mean + TINY).sqrt()


class Saturation(Reward):
    """Largest minus smallest of red, green and blue, averaged over pixels: from 0 (grey) to 2."""

    def forward(self, x: Tensor, cond: Cond = {}) -> Tensor:
        """Return the rewards (B,) of images x (B, 3, H, W)."""
        x = _rgb(x, self)
        return per_sample(x.amax(1) - x.amin(1))


class Brightness(Reward):
    """Minus the squared difference of the mean of an image and a target.

    Args:
        target: from -1 (black) to 1 (white).
    """

    def __init__(self, target: Float = 0.0):
        super().__init__()
        self.target = target

    def forward(self, x: Tensor, cond: Cond = {}) -> Tensor:
        """Return the rewards (B,) of images x (B, C, H, W)."""
        return -((per_sample(x) - self.target) ** 2)


class Sharpness(Reward):
    """Variance over inner pixels of the Laplacian of the channels' mean; 0 for planes."""

    def forward(self, x: Tensor, cond: Cond = {}) -> Tensor:
        """Return the rewards (B,) of images x (B, C, H, W), of 3×3 pixels at least."""
        grey = x.mean(1)
        neighbours = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
        return (neighbours - 4 * grey[:, 1:-1, 1:-1]).flatten(1).var(1, correction=0)


class TotalVariation(Reward):
    """Minus the mean absolute difference of neighbours, across and down: 0 for an image of one colour."""

    def forward(self, x: Tensor, cond: Cond = {}) -> Tensor:
        """Return the rewards (B,) of images x (B, C, H, W)."""
        return -per_sample(x.diff(dim=2).abs()) - per_sample(x.diff(dim=3).abs())


class MirrorSymmetry(Reward):
    """Minus the mean squared difference of an image and its mirror image, left for right."""

    def forward(self, x: Tensor, cond: Cond = {}) -> Tensor:
        """Return the rewards (B,) of images x (B, C, H, W)."""
        return -per_sample((x - x.flip(3)) ** 2)


class JPEGSize(Reward):
    """Minus the bytes of an image as JPEG, without a gradient: smooth images are small.

    Args:
        quality: of the compression, from 1 to 100.
    """

    differentiable = False

    def __init__(self, quality: Quality = 75):
        super().__init__()
        self.quality = quality

    @torch.no_grad()
    def forward(self, x: Tensor, cond: Cond = {}) -> Tensor:
        """Return the rewards (B,) of images x (B, 1 or 3, H, W)."""
        from torchvision.io import encode_jpeg  # as heavy to import as PyTorch itself

        pixels = ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()
        return x.new_tensor([-float(len(encode_jpeg(image, self.quality))) for image in pixels])


def _rgb(x: Tensor, reward: Reward) -> Tensor:
    if x.shape[1] == 3:
        return x
    raise FlowlitError(
        f"{type(reward).__name__}: images have {x.shape[1]} channels; expected 3 (red, green, blue)"
    )
