"""Real images with noise drawn afresh at every step: the coupling of a 1-rectified flow."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import Dataset

from .. import rng
from ..data import Pixels
from ..types import Codec, Coupling, ImageDataset, Pair
from .flip import random_flip
from .store.encoding import check_codec, codec_facts


class Independent(Coupling):
    """x1 from ``images``, x0 ~ N(0, I) independent of it. Use it for teachers.

    Args:
        images: the data set.
        flip: mirror each image with probability ½; right for photographs, wrong for digits.
        codec: images to x1, the same as the model's; None is ``Pixels``.
    """

    def __init__(self, images: ImageDataset, flip: bool = False, codec: Codec | None = None):
        self.images = images
        self.flip = flip
        self.codec = codec or Pixels()

    def dataset(self) -> Dataset:
        len(self.images)  # opens it, so that a missing file is found here
        return self.images

    def check_codec(self, codec: Codec) -> None:
        check_codec(codec_facts(self.codec), codec, self.source)

    def complete(self, batch: Any, device: torch.device) -> Pair:
        images = batch["x1"]
        cond = batch["cond"]
        if self.flip and not self.codec.pixels:  # a mirrored latent is not that of the mirrored image
            _, images, cond = random_flip(Pair(images, images, cond))
        x1 = self.codec.encode(images)
        pair = Pair(rng.randn_like(x1), x1, cond)
        return random_flip(pair) if self.flip and self.codec.pixels else pair

    @property
    def source(self) -> str:
        return f"images of {type(self.images).__name__}"
