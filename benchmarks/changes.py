"""Sets of images that differ from others in a known way, and their features on the disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flowlit._support.batch_invariance import in_blocks
from flowlit._support.files import write_atomically
from flowlit._support.progress import Bar
from flowlit.data import ImageFolder, ImageZip
from flowlit.metrics.base import FeatureExtractor
from flowlit.types import ImageDataset

ROWS = 500
"""Images of one file of features: what a killed run loses at most."""

Change = Callable[[Tensor, int], Tensor]
"""Images (B, C, H, W) uint8 and a seed -> images of the same shape."""


class Images(NamedTuple):
    """Images (N, C, H, W) uint8 with their classes (N,); -1 without."""

    pixels: Tensor
    labels: Tensor


def opened(paths: Sequence[str]) -> ImageDataset:
    """Open a folder of images, or zips, with their classes if they have any."""
    kind, given = (ImageZip, list(paths)) if paths[0].endswith(".zip") else (ImageFolder, paths[0])
    images = kind(given)  # type: ignore[arg-type]
    return kind(given, labels=True) if images.labelled() else images  # type: ignore[arg-type]


def read(images: ImageDataset, rows: Sequence[int], resolution: int) -> Images:
    """Read some images, area-averaged to ``resolution`` pixels a side; 0 leaves them."""
    items = [images[int(row)] for row in rows]
    pixels = torch.stack([item["x1"] for item in items])
    if resolution and resolution != pixels.shape[-1]:
        pixels = _bytes(F.interpolate(pixels.float(), (resolution, resolution), mode="area"))
    labels = torch.tensor([int(item["cond"].get("label", -1)) for item in items])
    return Images(pixels, labels)


def blurred(pixels: Tensor, seed: int) -> Tensor:
    """Replace each value by the mean of 3×3."""
    return _bytes(F.avg_pool2d(F.pad(pixels.float(), (1, 1, 1, 1), mode="reflect"), 3, 1))


def noisy(pixels: Tensor, seed: int, most: int = 8) -> Tensor:
    """Add whole numbers from -8 to 8, all equally probable, and clamp."""
    generator = torch.Generator().manual_seed(seed)
    return _bytes(pixels + torch.randint(-most, most + 1, pixels.shape, generator=generator).float())


def few_colours(pixels: Tensor, seed: int) -> Tensor:
    """Round to 256 colours: 8 levels of red and green, 4 of blue (grey: 8)."""
    levels = torch.tensor([7.0, 7.0, 3.0][: pixels.shape[1]]).reshape(-1, 1, 1)
    return _bytes((pixels.float() / 255 * levels).round() / levels * 255)


def reduced(to: int) -> Change:
    """Return the change to ``to`` pixels a side (means) and back (bilinear)."""

    def change(pixels: Tensor, seed: int) -> Tensor:
        small = F.interpolate(pixels.float(), (to, to), mode="area")
        return _bytes(F.interpolate(small, pixels.shape[2:], mode="bilinear"))

    return change


def unchanged(pixels: Tensor, seed: int) -> Tensor:
    """Return the same images."""
    return pixels


def _bytes(values: Tensor) -> Tensor:
    return values.round().clamp(0, 255).byte()


@torch.no_grad()
def features_of(pixels: Tensor, change: Change, extractor: FeatureExtractor, path: Path, seed: int) -> Tensor:
    """Return features (N, d) of changed images (N, C, H, W), from the files ``path``-<first>.npy or anew."""
    blocks = []
    for first in Bar(range(0, len(pixels), ROWS), desc=path.name, leave=False):
        file = path.with_name(f"{path.name}-{first}.npy")
        if not file.exists():
            images = change(pixels[first : first + ROWS], seed + first)
            values = in_blocks(extractor.extract, images)[0].float().numpy()
            write_atomically(file, lambda stream, values=values: np.save(stream, values))  # type: ignore[misc]
        blocks.append(np.load(file))
    return torch.from_numpy(np.concatenate(blocks))
