"""Bicubic resizing as two products with matrices, by the kernel of MATLAB, Pillow and torchvision."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

Edge = Literal["symmetric", "renormalise"]
"""Beyond the border: the image mirrored, its edge repeated (MATLAB), or nothing (Pillow, torchvision)."""

A = -0.5
"""Parameter of the kernel: Keys 1981; PyTorch's without antialias, and OpenCV's, have -0.75."""


def cubic(x: Tensor, a: float = A) -> Tensor:
    """Evaluate Keys' cubic convolution kernel, which is 0 beyond 2, at x of any shape.

    (a + 2)|x|³ - (a + 3)|x|² + 1 up to |x| = 1, a|x|³ - 5a|x|² + 8a|x| - 4a up to 2.
    """
    x = x.abs()
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


KEPT = 2**18
"""Entries of the largest matrices that are kept, 2 MB; those of photographs have hundreds of times that."""


def weights(size: int, new: int, edge: Edge = "symmetric") -> Tensor:
    """Return the matrix, (n, size) float64, that resizes a line of pixels; each row sums to 1.

    Pixel o of the new line has its centre at (o + ½) / r - ½ of the old one, r = new / size. Where the line
    shrinks, the kernel is 1 / r times as wide, so that nothing aliases.

    >>> weights(8, 2, "renormalise").sum(1).tolist()
    [1.0, 1.0]
    """
    return _kept(size, new, edge) if size * new <= KEPT else _weights(size, new, edge)


def _weights(size: int, new: int, edge: Edge) -> Tensor:
    ratio = new / size
    widening = min(ratio, 1.0)
    centres = (torch.arange(new, dtype=torch.float64) + 0.5) / ratio - 0.5
    width = 4 / widening
    taps = torch.arange(math.ceil(width) + 2)
    places = (centres - width / 2).floor().long()[:, None] + taps
    values = cubic((centres[:, None] - places) * widening)
    if edge == "renormalise":
        values = values * ((places >= 0) & (places < size))
        places = places.clamp(0, size - 1)
    else:
        places = places.remainder(2 * size)
        places = torch.where(places < size, places, 2 * size - 1 - places)
    matrix = torch.zeros(new, size, dtype=torch.float64)
    matrix.scatter_add_(1, places, values / values.sum(1, keepdim=True))
    return matrix


_kept = lru_cache(maxsize=64)(_weights)


def resize(images: Tensor, size: tuple[int, int], edge: Edge = "symmetric") -> Tensor:
    """Resize images (B, C, H, W) of floating-point numbers to (B, C, h, w); values may leave their range.

    Args:
        images: on any device.
        size: (h, w).
        edge: beyond the border.

    Use it for low-resolution images of published sets (MATLAB's ``imresize``: "symmetric"), and for
    torchvision's ``resize`` with antialias, and Pillow's before it rounds ("renormalise").
    """
    rows, columns = (
        weights(old, new, edge).to(images.device, images.dtype)
        for old, new in zip(images.shape[-2:], size, strict=True)
    )
    return rows @ images @ columns.T
