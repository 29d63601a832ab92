"""Distances of the images that latents stand for."""

from __future__ import annotations

import torch
from torch import Tensor

from ..types import Distance
from .latents import VAE


class DecodedDistance(Distance):
    """Compare latents by their images, as InstaFlow's second distillation does: d(decoded a, decoded b).

    Gradients flow through the frozen decoder to a, and none to b.

    Args:
        codec: of the latents.
        distance: of images (B, C, H, W) near [-1, 1].
    """

    def __init__(self, codec: VAE, distance: Distance):
        super().__init__()
        self.codec = codec
        self.distance = distance

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the distance of each sample, (B,), of latents a and b (B, c, h, w)."""
        with torch.no_grad():
            target = self.codec.decoded(b)
        return self.distance(self.codec.decoded(a), target)
