"""Degradations of high-resolution images to low-resolution ones, and the way back to their size."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from .._support.names import public_path
from ..errors import FlowlitError
from ..ranges import Checked, NonNegativeFloat, PositiveInt
from ..types import Codec
from .bicubic import Edge, resize
from .codecs import to_levels

_STREAM = 1 << 192
"""Where the draws of degradations begin in the stream of a seed; noise has those below."""


class Degradation(Checked, ABC):
    """A law of low-resolution images y given high-resolution ones, and a way to bring y to their size.

    Images are floating-point numbers with black 0 and white 1. What is random of an image is drawn from the
    generator of that image alone: its result does not depend on the batch. Subclasses are dataclasses, or
    have a ``spec``, so that checkpoints say what a network was trained for.
    """

    scale: int
    """Width of a high-resolution image over that of its low-resolution one."""

    @property
    def spec(self) -> dict[str, Any] | None:
        """Description by which it is built again, for checkpoints; None if it has none."""
        if not is_dataclass(self):
            return None
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {"class_path": public_path(type(self)), "init_args": values}

    def __call__(self, images: Tensor, generators: Sequence[np.random.Generator]) -> Tensor:
        """Return low-resolution images (B, C, H / scale, W / scale) of images (B, C, H, W).

        Args:
            images: in [0, 1].
            generators: one for each image, see ``seeded``.

        Raises:
            FlowlitError: if height or width is no multiple of the scale.
        """
        height, width = images.shape[-2:]
        if height % self.scale or width % self.scale:
            raise FlowlitError(
                f"{type(self).__name__}: images of {height}×{width} pixels cannot be divided by "
                f"{self.scale}; crop them to a multiple of it first (crop: …)"
            )
        return self.degrade(images, generators)

    @abstractmethod
    def degrade(self, images: Tensor, generators: Sequence[np.random.Generator]) -> Tensor:
        """Return the same as a call, for images (B, C, H, W) whose sides are multiples of the scale."""

    @abstractmethod
    def enlarge(self, images: Tensor) -> Tensor:
        """Return low-resolution images (B, C, h, w) at the size of high-resolution ones.

        That is (B, C, h · scale, w · scale): what networks take as the condition "image".
        """


class SameSize(Degradation):
    """A degradation that leaves the size of images as it is."""

    scale = 1

    def enlarge(self, images: Tensor) -> Tensor:
        """Return the images (B, C, H, W)."""
        return images


def seeded(seeds: Sequence[int], indices: Sequence[int] | None = None) -> list[np.random.Generator]:
    """Return a generator for each image, a function of its seed in [0, 2^64) and its index, by default 0.

    Its draws are others than those of ``flowlit.couplings.SeededNoise``.
    """
    places = [0] * len(seeds) if indices is None else indices
    return [
        np.random.Generator(np.random.Philox(key=seed, counter=_STREAM + (index << 64)))
        for seed, index in zip(seeds, places, strict=True)
    ]


def normal(generator: np.random.Generator, like: Tensor) -> Tensor:
    """Draw N(0, 1) for each entry of an image (C, H, W), on its device and in its dtype.

    On a GPU they are drawn by a generator there, which the given one seeds.
    """
    if like.device.type != "cpu":
        there = torch.Generator(like.device).manual_seed(int(generator.integers(2**62)))
        return torch.randn(like.shape, generator=there, device=like.device).to(like.dtype)
    drawn = generator.standard_normal(tuple(like.shape), np.float32)
    return torch.from_numpy(drawn).to(like.dtype)


def image_condition(images: Tensor, degradation: Degradation, codec: Codec) -> Tensor:
    """Return low-resolution images (B, C, h, w), in [0, 1], as networks take them: at the size of
    high-resolution ones, and as x1 of a codec, (B, c, H, W).

    x1 that are pixels keep their values; for other codecs they are clipped and rounded to 8 bits first.
    """
    x1 = degradation.enlarge(images) * 2 - 1
    return x1 if codec.pixels else codec.encode(to_levels(x1))


def conditions(images: Tensor, degradation: Degradation, codec: Codec, low: bool) -> dict[str, Tensor]:
    """Return the conditions of low-resolution images (B, C, h, w) in [0, 1]: "image", and "lr" if ``low``.

    The latter are the images themselves, (B, C, h, w) in [-1, 1], for ``flowlit.networks.SwinUNet``.
    """
    given = {"image": image_condition(images, degradation, codec)}
    return {**given, "lr": images * 2 - 1} if low else given


@dataclass
class AveragePool(Degradation):
    """The mean of each scale × scale pixels; enlarged by repeating them.

    Means of enlarged images are the low-resolution ones again. OFTSR's ``sr_avp`` (2412.09465).
    """

    scale: PositiveInt

    def degrade(self, images: Tensor, generators: Sequence[np.random.Generator]) -> Tensor:
        """Return (B, C, H / scale, W / scale) of (B, C, H, W)."""
        return avg_pool2d(images, self.scale)

    def enlarge(self, images: Tensor) -> Tensor:
        """Return (B, C, h · scale, w · scale) of (B, C, h, w)."""
        return interpolate(images, scale_factor=self.scale, mode="nearest")


@dataclass
class Bicubic(Degradation):
    """Bicubic resizing with antialias, Keys' kernel with a = -½; enlarged by the same kernel.

    Values may leave [0, 1] at edges; ``EightBit`` after it clips them.

    Args:
        scale: width of the image over that of the result.
        edge: "symmetric" as MATLAB, for published sets; "renormalise" as Pillow and torchvision (OFTSR's
            ``sr_interp``, 2412.09465). They differ near borders only.
    """

    scale: PositiveInt
    edge: Edge = "symmetric"

    def degrade(self, images: Tensor, generators: Sequence[np.random.Generator]) -> Tensor:
        """Return (B, C, H / scale, W / scale) of (B, C, H, W)."""
        height, width = images.shape[-2:]
        return resize(images, (height // self.scale, width // self.scale), self.edge)

    def enlarge(self, images: Tensor) -> Tensor:
        """Return (B, C, h · scale, w · scale) of (B, C, h, w)."""
        height, width = images.shape[-2:]
        return resize(images, (height * self.scale, width * self.scale), self.edge)


@dataclass
class GaussianNoise(SameSize):
    """White noise added to each channel of each pixel.

    Args:
        std: its standard deviation, where white is 1: half of one that a paper gives for [-1, 1].
    """

    std: NonNegativeFloat

    def degrade(self, images: Tensor, generators: Sequence[np.random.Generator]) -> Tensor:
        """Return (B, C, H, W) of (B, C, H, W)."""
        noise = [normal(own, image) for own, image in zip(generators, images, strict=True)]
        return images + self.std * torch.stack(noise)


@dataclass
class EightBit(SameSize):
    """Values clipped to [0, 1] and rounded to 256 levels, as a file of the image has them."""

    def degrade(self, images: Tensor, generators: Sequence[np.random.Generator]) -> Tensor:
        """Return (B, C, H, W) of (B, C, H, W)."""
        return (images.clamp(0, 1) * 255).round() / 255


class Chain(Degradation):
    """Degradations one after the other, enlarged in the reverse order.

    Args:
        steps: the first acts first, e.g. ``AveragePool``, ``GaussianNoise``, ``EightBit``.
    """

    def __init__(self, steps: list[Degradation]):
        if not steps:
            raise FlowlitError("Chain: steps is empty; expected degradations")
        self.steps = list(steps)
        self.scale = 1
        for step in self.steps:
            self.scale *= step.scale

    @property
    def spec(self) -> dict[str, Any]:
        """Description by which it is built again."""
        steps = [step.spec for step in self.steps]
        return {"class_path": public_path(type(self)), "init_args": {"steps": steps}}

    def split(self, count: int) -> tuple[Chain, Chain]:
        """Return the first ``count`` steps and the others; the latter of the former is the chain."""
        return Chain(self.steps[:count]), Chain(self.steps[count:])

    def degrade(self, images: Tensor, generators: Sequence[np.random.Generator]) -> Tensor:
        """Return (B, C, H / scale, W / scale) of (B, C, H, W)."""
        for step in self.steps:
            images = step(images, generators)
        return images

    def enlarge(self, images: Tensor) -> Tensor:
        """Return (B, C, h · scale, w · scale) of (B, C, h, w)."""
        for step in reversed(self.steps):
            images = step.enlarge(images)
        return images
