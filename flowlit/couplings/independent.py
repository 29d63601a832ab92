"""Real images with noise drawn afresh at every step: the coupling of a 1-rectified flow."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import Dataset

from .. import rng
from ..data import Pixels
from ..types import Codec, Coupling, ImageDataset, Pair
from .flip import random_flip


class Independent(Coupling):
    """x1 from ``images``, x0 ~ N(0, I) independent of it. Use it for teachers.

    Args:
        images: the data set.
        flip: mirror each image with probability ½; right for photographs, wrong for digits.
        codec: uint8 to x1; None is ``Pixels``.
    """

    def __init__(self, images: ImageDataset, flip: bool = False, codec: Codec | None = None):
        self.images = images
        self.flip = flip
        self.codec = codec or Pixels()

    def dataset(self) -> Dataset:
        len(self.images)  # opens it, so that a missing file is found here
        return self.images

    def complete(self, batch: Any, device: torch.device) -> Pair:
        x1 = self.codec.encode(batch["x1"])
        pair = Pair(rng.randn_like(x1), x1, batch["cond"])
        return random_flip(pair) if self.flip else pair

    @property
    def source(self) -> str:
        return f"images of {type(self.images).__name__}"
