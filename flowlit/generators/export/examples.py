"""Small images for a page of super-resolution: scikit-learn's photographs, degraded as in training."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ...data.bicubic import resize
from ...data.degradations import Degradation, seeded

PHOTOGRAPHS = ("flower", "china")
CREDIT = (
    "Examples: photographs of flickr.com/photos/vultilion (flower) and flickr.com/photos/danielbuechele "
    "(china), CC BY 2.0, from scikit-learn; cut, and brought down as in the network's training."
)

TILES = 5
"""Sides of an example once it is enlarged, in tiles; fewer where the photograph has fewer pixels."""


def write_examples(folder: Path, degradation: Degradation, tile: int, channels: int) -> list[dict[str, str]]:
    """Write small images as PNG into a folder; return their names and files.

    Args:
        folder: that exists.
        degradation: that the network inverts.
        tile: the side of its tiles.
        channels: 1 or 3.
    """
    from sklearn.datasets import load_sample_image

    written = []
    for name in PHOTOGRAPHS:
        photograph = torch.from_numpy(load_sample_image(f"{name}.jpg").copy()).permute(2, 0, 1)[None] / 255
        small = degradation(_square(photograph, tile, degradation.scale, channels), seeded([0]))[0]
        levels = (small.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).squeeze(2).numpy()
        Image.fromarray(levels).save(folder / f"{name}.png")
        written.append({"name": name.capitalize(), "file": f"{name}.png"})
    return written


def _square(photograph: Tensor, tile: int, scale: int, channels: int) -> Tensor:
    """Return the middle of a photograph (1, 3, H, W) brought down, (1, channels, side, side)."""
    height, width = photograph.shape[2:]
    square = min(height, width)
    top = (height - square) // 2
    left = (width - square) // 2
    middle = photograph[..., top : top + square, left : left + square]
    side = max(scale, min(TILES * tile, square) // scale * scale)
    middle = resize(middle, (side, side)).clamp(0, 1)
    return middle if channels == 3 else middle.mean(1, keepdim=True)
