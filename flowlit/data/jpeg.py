"""The loss of JPEG on tensors, on any device: cosine transform, quantisation, and colours at half size."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
"""Steps of quantisation at quality 50, rows of frequencies (ITU T.81, annex K)."""

CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99, 99, 99, 99, 99, 99, 99, 99),) * 4,
)
"""Likewise, of colours."""

TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
"""Luma and colours of red, green and blue (JFIF)."""


def steps(table: tuple[tuple[int, ...], ...], quality: float) -> Tensor:
    """Return the steps (8, 8) of a quality from 1 to 100, as libjpeg scales them."""
    percent = 5000 / quality if quality < 50 else 200 - 2 * quality
    return ((torch.tensor(table) * percent + 50) / 100).floor().clamp(1, 255)


@lru_cache(maxsize=1)
def cosines() -> Tensor:
    """Return the orthonormal cosine transform (8, 8) of a line of eight pixels."""
    k = torch.arange(8.0)[:, None]
    matrix = torch.cos((2 * torch.arange(8.0) + 1) * k * math.pi / 16) / 2
    matrix[0] /= math.sqrt(2)
    return matrix


def jpeg(image: Tensor, quality: float) -> Tensor:
    """Return an image (C, H, W) in [0, 1], grey or RGB, as it comes back from a JPEG file.

    Colours have half the resolution (4:2:0), and are enlarged bilinearly, as libjpeg does.
    """
    height, width = image.shape[-2:]
    x = pad(image[None] * 255, (0, -width % 16, 0, -height % 16), mode="replicate")
    if image.shape[0] == 1:
        return _coded(x, steps(LUMA, quality))[0, :, :height, :width] / 255
    matrix = torch.tensor(TO_YCC, dtype=x.dtype, device=x.device)
    planes = torch.einsum("ij,bjhw->bihw", matrix, x)
    luma = _coded(planes[:, :1], steps(LUMA, quality))
    colours = _coded(avg_pool2d(planes[:, 1:], 2) + 128, steps(CHROMA, quality)) - 128
    planes = torch.cat([luma, interpolate(colours, scale_factor=2, mode="bilinear")], dim=1)
    x = torch.einsum("ij,bjhw->bihw", matrix.double().inverse().to(x.dtype), planes)
    return x[0, :, :height, :width].round().clamp(0, 255) / 255


def _coded(planes: Tensor, table: Tensor) -> Tensor:
    """Quantise planes (B, C, 8 h, 8 w) in 0 … 255 in each block of 8×8."""
    transform = cosines().to(planes.device, planes.dtype)
    table = table.to(planes.device, planes.dtype)
    blocks = (planes - 128).unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)
    quantised = (transform @ blocks @ transform.T / table).round() * table
    decoded = (transform.T @ quantised @ transform).transpose(3, 4)
    return (decoded.flatten(4, 5).flatten(2, 3) + 128).round().clamp(0, 255)
