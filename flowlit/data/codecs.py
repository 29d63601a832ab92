"""Codecs: the border between uint8 images and float32 x1."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from ..errors import FlowlitError
from ..types import Codec


def to_levels(x1: Tensor) -> Tensor:
    """Round x1 (B, …) in [-1, 1] to the nearest of 256 levels, uint8 (B, …); clip what lies outside."""
    return (x1.float() * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)


def from_levels(levels: Tensor) -> Tensor:
    """Return uint8 levels (B, …) as float32 (B, …) in [-1, 1].

    >>> to_levels(from_levels(torch.tensor([0, 127, 255], dtype=torch.uint8))).tolist()
    [0, 127, 255]
    """
    return (levels.float() / 127.5).sub_(1)


class Pixels(Codec):
    """Map uint8 {0 … 255} to [-1, 1] and back, rounding to nearest (not truncating) and clamping.

    x1 has the shape of its image. Right for small images; large ones are cheaper to generate as latents.
    """

    rounding = "to nearest, clamped to 0 … 255"
    pixels = True

    def encode(self, images: Tensor) -> Tensor:
        """uint8 (B, C, H, W) -> float32 (B, C, H, W) in [-1, 1]."""
        return from_levels(images)

    def decode(self, x1: Tensor) -> Tensor:
        """float32 (B, C, H, W) -> uint8 (B, C, H, W)."""
        return to_levels(x1)


class Patches(Codec):
    """Fold 2×2 pixels into four channels by the orthonormal Haar transform, after ``Pixels``.

    x1 is (4 C, H/2, W/2): a mean and three differences of each patch, times 2. It is invertible and keeps
    distances, so that flows in x1 are flows of pixels; a network sees a quarter of the positions. Use it to
    try a codec whose x1 has another shape than its images, without weights. H and W must be even.

    >>> Patches().encoded_shape((1, 8, 8)), Patches().decoded_shape((4, 4, 4))
    ((4, 4, 4), (1, 8, 8))
    """

    rounding = Pixels.rounding

    def encode(self, images: Tensor) -> Tensor:
        """uint8 (B, C, H, W) -> float32 (B, 4 C, H/2, W/2) in [-2, 2]."""
        if images.shape[-2] % 2 or images.shape[-1] % 2:
            raise FlowlitError(
                f"Patches: images of shape {tuple(images.shape[1:])}; expected an even height and width"
            )
        return haar(pixel_unshuffle(from_levels(images), 2))

    def decode(self, x1: Tensor) -> Tensor:
        """float32 (B, 4 C, H/2, W/2) -> uint8 (B, C, H, W)."""
        return to_levels(pixel_shuffle(haar(x1.float()), 2))


def haar(x: Tensor) -> Tensor:
    """Mix each four channels of (B, 4 C, H, W) by the orthonormal 4×4 Hadamard matrix, which is its own
    inverse.
    """
    a, b, c, d = x.unflatten(1, (-1, 4)).unbind(2)
    mixed = (a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d)
    return torch.stack(mixed, 2).flatten(1, 2) / 2
