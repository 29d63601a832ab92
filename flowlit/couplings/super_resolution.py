"""Degraded and real images: where flows of super-resolution start, and where they end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .. import rng
from .._support.names import public_path
from ..data import Pixels
from ..data.degradations import Degradation, image_condition, seeded
from ..errors import FlowlitError
from ..networks.checkpoints.spec import spec
from ..ranges import PositiveInt, Probability, Seed
from ..types import Codec, Cond, Coupling, ImageDataset, Noise, Pair, Source
from .flip import mirrored
from .noise import seeded_normals
from .starts import NoisedImage
from .store.encoding import check_codec, codec_facts


class SuperResolution(Coupling):
    """x1 from ``images``, x0 near their degraded copies, which are the condition ``"image"``.

    Use it for teachers that enlarge or restore images, and for what is distilled from them. Of an image come,
    in this order: a square cut at random, mirrored; its degraded copy, drawn afresh in every step; c, that
    copy at the size of x1; and x0 of c and noise. The network reads c, see
    ``flowlit.networks.ConcatenatedImage``. OFTSR (2412.09465), ResShift (2307.12348).

    Args:
        images: high-resolution ones, of one size.
        degradation: of high-resolution to low-resolution images.
        start: x0 of c and noise.
        crop: side of the square in pixels; None takes whole images.
        flip: mirror each image left to right with probability ½.
        vertical_flip: probability of mirroring an image top to bottom; OFTSR's is 0.06.
        codec: images to x1, the same as the model's; None is ``Pixels``.
    """

    def __init__(
        self,
        images: ImageDataset,
        degradation: Degradation,
        start: NoisedImage,
        crop: PositiveInt | None = None,
        flip: bool = False,
        vertical_flip: Probability = 0.0,
        codec: Codec | None = None,
    ):
        self.images = images
        self.degradation = degradation
        self.start = start
        self.crop = crop
        self.flip = flip
        self.vertical_flip = vertical_flip
        self.codec = codec or Pixels()

    @property
    def task(self) -> dict[str, Any]:
        """Scale, degradation and start as plain data, which checkpoints hold."""
        return task_of(self.degradation, self.start)

    def dataset(self) -> Dataset:
        check_size(self.images, self.crop, self.degradation, self.source)
        return self.images

    def check_codec(self, codec: Codec) -> None:
        check_codec(codec_facts(self.codec), codec, self.source)

    def blank(self, image: Tensor, cond: Cond) -> tuple[Tensor, Cond]:
        """Return the shape of a cut image (C, H, W), and its conditions with "image", (c, h, w)."""
        cut = image if self.crop is None else image[:, : self.crop, : self.crop]
        return cut, {**cond, "image": torch.zeros(self.codec.encoded_shape(cut.shape))}

    def complete(self, batch: Any, device: torch.device) -> Pair:
        images = self._augmented(batch["x1"])
        x1 = self.codec.encode(images)
        seeds = rng.randint(2**62, len(images)).tolist()
        low = self.degradation(images.float() / 255, seeded(seeds))
        image = image_condition(low, self.degradation, self.codec)
        return Pair(self.start(image, rng.randn_like(x1)), x1, {**batch["cond"], "image": image})

    def _augmented(self, images: Tensor) -> Tensor:
        """Return images (B, C, H, W) cut at random, (B, C, crop, crop), and mirrored."""
        count, _, height, width = images.shape
        if self.crop is not None:
            tops = rng.randint(height - self.crop + 1, count).tolist()
            lefts = rng.randint(width - self.crop + 1, count).tolist()
            corners = zip(images, tops, lefts, strict=True)
            cut = [image[:, top : top + self.crop, left : left + self.crop] for image, top, left in corners]
            images = torch.stack(cut)
        if self.flip:
            images = mirrored(images, rng.rand(count, images.device) < 0.5)
        if self.vertical_flip:
            images = mirrored(images, rng.rand(count, images.device) < self.vertical_flip, dim=-2)
        return images

    @property
    def source(self) -> str:
        return f"images of {type(self.images).__name__}"


class DegradedImages(Source):
    """Degraded images, from which super-resolution starts in validation, prediction and ``flowlit couple``.

    Row i is x0 of image i mod N, in the order of the set, and of noise of its own; its condition ``"image"``
    is the degraded image at the size of x1. Rows i and i + N have the same condition, and other noise: their
    results are different answers to one question.

    Args:
        images: N of them, of one size; held out for validation, those of training for ``couple``.
        degradation: the same as in training.
        start: likewise.
        num: how many rows.
        seed: of noise and degradation.
        crop: side in pixels of the square in the middle of each image; None takes whole images.
        codec: images to x1, the same as the model's; None is ``Pixels``.
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
    ):
        self.images = images
        self.degradation = degradation
        self.start = start
        self.num = num
        self.seed = seed
        self.crop = crop
        self.codec = codec or Pixels()
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
        return DegradedImages(self.images, self.degradation, self.start, num, seed, self.crop, self.codec)

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
        }

    def targets(self, indices: Sequence[int]) -> Tensor:
        """Return the images that were degraded, uint8 (B, C, H, W): what a result is compared with."""
        return torch.stack([self._item(i)["x1"] for i in indices])

    def batch(self, indices: Sequence[int]) -> Noise:
        items = [self._item(i) for i in indices]
        images = torch.stack([item["x1"] for item in items])
        numbers = [i % len(self.images) for i in indices]
        low = self.degradation(images.float() / 255, seeded([self.seed] * len(numbers), numbers))
        image = image_condition(low, self.degradation, self.codec)
        noise = seeded_normals([self.seed], indices, image.shape[1:])
        labels = {key: torch.stack([item["cond"][key] for item in items]) for key in items[0]["cond"]}
        return Noise(torch.tensor(indices), self.start(image, noise), {**labels, "image": image})

    def _item(self, index: int) -> dict[str, Any]:
        item = self.images[index % len(self.images)]
        if self.crop is None:
            return item
        top, left = ((side - self.crop) // 2 for side in item["x1"].shape[-2:])
        return {**item, "x1": item["x1"][:, top : top + self.crop, left : left + self.crop]}


def task_of(degradation: Degradation, start: NoisedImage) -> dict[str, Any]:
    """Return scale, degradation and start as plain data."""
    return {"scale": degradation.scale, "degradation": spec(degradation), "start": spec(start)}


def check_size(images: ImageDataset, crop: int | None, degradation: Degradation, name: str) -> None:
    """Refuse images that cannot be cut or degraded; opens them.

    Raises:
        FlowlitError: with both sizes.
    """
    len(images)  # so that a missing file is found here
    height, width = images[0]["x1"].shape[-2:]
    if crop is not None and crop > min(height, width):
        raise FlowlitError(f"crop is {crop}, but {name} have {height}×{width} pixels; make it smaller")
    scale = degradation.scale
    sides = [height, width] if crop is None else [crop]
    if any(side % scale for side in sides):
        what = f"{name} have {height}×{width} pixels" if crop is None else f"crop is {crop}"
        raise FlowlitError(
            f"{what}, no multiple of the degradation's scale {scale}; set crop: to a multiple of {scale}"
        )
