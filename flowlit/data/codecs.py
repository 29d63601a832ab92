"""Codecs: the border between uint8 images and float32 x1."""

from __future__ import annotations

from torch import Tensor, uint8

from ..types import Codec


class Pixels(Codec):
    """Map uint8 {0 … 255} to [-1, 1] and back, rounding to nearest (not truncating) and clamping.

    >>> import torch
    >>> Pixels().decode(Pixels().encode(torch.tensor([0, 127, 255], dtype=torch.uint8))).tolist()
    [0, 127, 255]
    """

    rounding = "to nearest, clamped to 0 … 255"

    def encode(self, images: Tensor) -> Tensor:
        return (images.float() / 127.5).sub_(1)

    def decode(self, x1: Tensor) -> Tensor:
        return (x1.float() * 127.5 + 127.5).round().clamp(0, 255).to(uint8)
