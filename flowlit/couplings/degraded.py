"""Degraded images as the start of generation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._support.names import public_path
from ..data import Pixels
from ..data.degradations import Degradation, conditions, seeded
from ..errors import FlowlitError
from ..networks.checkpoints.spec import spec
from ..paths import NoisedImage
from ..ranges import PositiveInt, Seed
from ..types import Codec, ImageDataset, Noise, Source
from .noise import seeded_normals
from .store.encoding import codec_facts


class DegradedImages(Source):
    """Degraded images, from which super-resolution starts in validation, prediction and ``flowlit couple``.

    Row i is x0 of image i mod N, in the order of the set, and of noise of its own; its condition ``"image"``
    is the degraded image at the size of x1. Rows i and i + N have the same condition, and other noise: their
    results are different answers to one question.

    Args:
        images: N of them, of one size; held out for validation, those of training for ``couple``.
            ``PairedImages`` have their degraded copies with them.
        degradation: the same as in training.
        start: likewise.
        num: how many rows.
        seed: of noise and degradation.
        crop: side in pixels of the square in the middle of each image; None takes whole images.
        codec: images to x1, the same as the model's; None is ``Pixels``.
        low: make another condition, ``"lr"``, as in training.
    """

    def __init__(
        self,
        images: ImageDataset,
        degradation: Degradation,
        start: NoisedImage,
        num: PositiveInt,
        seed: Seed = 0,
        crop: PositiveInt | None = None,
        codec: Codec | None = None,
        low: bool = False,
    ):
        self.images = images
        self.degradation = degradation
        self.start = start
        self.num = num
        self.seed = seed
        self.crop = crop
        self.codec = codec or Pixels()
        self.low = low
        self._sizes: tuple[tuple[int, ...], int] | None = None

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """(C, H, W) of x0."""
        return self._opened()[0]

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        """Classes of the images; 0 without labels."""
        return self._opened()[1]

    def _opened(self) -> tuple[tuple[int, ...], int]:
        if self._sizes is None:
            name = f"images of {type(self.images).__name__}"
            check_size(self.images, self.crop, self.degradation, name)
            counts = self.images.label_counts() if self.images[0]["cond"] else None
            classes = max(len(self.images.classes or ()), max(counts, default=-1) + 1) if counts else 0
            self._sizes = self.codec.encoded_shape(self.targets([0]).shape[1:]), classes
        return self._sizes

    def __len__(self) -> int:
        return self.num

    def _like(self, num: int, seed: int) -> DegradedImages:
        options = (self.crop, self.codec, self.low)
        return DegradedImages(self.images, self.degradation, self.start, num, seed, *options)

    def first(self, num: int) -> DegradedImages:
        return self._like(num, self.seed)

    def reseeded(self, seed: int) -> DegradedImages:
        return self._like(self.num, seed)

    def identity(self) -> dict[str, Any]:
        facts = {"source": public_path(type(self)), "images": self.images.fingerprint, "crop": self.crop}
        task = task_of(self.degradation, self.start)
        return {
            **facts,
            **task,
            "seed": self.seed,
            "shape": list(self.shape),
            "codec": codec_facts(self.codec),
            **({"low": True} if self.low else {}),
        }

    def targets(self, indices: Sequence[int]) -> Tensor:
        """Return the images that were degraded, uint8 (B, C, H, W): what a result is compared with."""
        return torch.stack([self._item(i)["x1"] for i in indices])

    def batch(self, indices: Sequence[int]) -> Noise:
        items = [self._item(i) for i in indices]
        images = torch.stack([item["x1"] for item in items])
        numbers = [i % len(self.images) for i in indices]
        if "small" in items[0]:
            low = torch.stack([item["small"] for item in items]).float() / 255
        else:
            low = self.degradation(images.float() / 255, seeded([self.seed] * len(numbers), numbers))
        given = conditions(low, self.degradation, self.codec, self.low)
        image = given["image"]
        noise = seeded_normals([self.seed], indices, image.shape[1:])
        labels = {key: torch.stack([item["cond"][key] for item in items]) for key in items[0]["cond"]}
        return Noise(torch.tensor(indices), self.start(image, noise), {**labels, **given})

    def _item(self, index: int) -> dict[str, Any]:
        item = self.images[index % len(self.images)]
        if self.crop is None:
            return item
        scale = self.degradation.scale if "small" in item else 1
        middle = [(side - self.crop) // 2 // scale for side in item["x1"].shape[-2:]]
        squares = {"x1": square(item["x1"], [scale * place for place in middle], self.crop)}
        if "small" in item:
            squares["small"] = square(item["small"], middle, self.crop // scale)
        return {**item, **squares}


def square(image: Tensor, corner: Sequence[int], side: int) -> Tensor:
    """Return the square (C, side, side) of an image (C, H, W) from a corner, its row and column."""
    top, left = corner
    return image[:, top : top + side, left : left + side]


def task_of(degradation: Degradation, start: NoisedImage) -> dict[str, Any]:
    """Return scale, degradation and start as plain data."""
    return {"scale": degradation.scale, "degradation": spec(degradation), "start": spec(start)}


def check_size(images: ImageDataset, crop: int | None, degradation: Degradation, name: str) -> None:
    """Refuse images that cannot be cut or degraded; opens them.

    Raises:
        FlowlitError: with both sizes.
    """
    len(images)  # so that a missing file is found here
    first = images[0]
    height, width = first["x1"].shape[-2:]
    if crop is not None and crop > min(height, width):
        raise FlowlitError(f"crop is {crop}, but {name} have {height}×{width} pixels; make it smaller")
    scale = degradation.scale
    sides = [height, width] if crop is None else [crop]
    if any(side % scale for side in sides):
        what = f"{name} have {height}×{width} pixels" if crop is None else f"crop is {crop}"
        raise FlowlitError(
            f"{what}, no multiple of the degradation's scale {scale}; set crop: to a multiple of {scale}"
        )
    small = first["small"].shape[-2:] if "small" in first else (height // scale, width // scale)
    if (small[0] * scale, small[1] * scale) != (height, width):
        raise FlowlitError(
            f"{name} have {height}×{width} pixels, and small ones {small[0]}×{small[1]}; expected "
            f"1 / {scale} of them, the degradation's scale"
        )
