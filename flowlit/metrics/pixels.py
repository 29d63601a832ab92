"""Pixels as features: no network."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .._support.files import short_hash
from ..errors import FlowlitError
from ..ranges import PositiveInt
from .base import FeatureExtractor


class PixelFeatures(FeatureExtractor):
    """The brightness of pixels, size² features in [-1, 1].

    A Fréchet distance in them compares means and covariances of pixels: how much of each frequency images
    have, and where. Blur lacks some, and grain adds to all, each in proportion to its energy. Content is not
    seen. The distance is called ``frechet_pixels_<size>``; it is no FID.

    Args:
        size: pixels a side, over which images are averaged first; at most that of the images.
    """

    def __init__(self, size: PositiveInt = 32):
        self.size = size
        self.name = f"pixels_{size}"
        self.resize = f"area averages to {size}×{size}"

    def __call__(self, images: Tensor) -> Tensor:
        """Return features (B, size²) of uint8 images (B, C, H, W).

        Raises:
            FlowlitError: for images smaller than ``size``.
        """
        if self.size > min(images.shape[-2:]):
            raise FlowlitError(
                f"PixelFeatures: size is {self.size}; expected at most {min(images.shape[-2:])}, the side of "
                "the images"
            )
        brightness = images.float().mean(1, keepdim=True) / 127.5 - 1
        return F.adaptive_avg_pool2d(brightness, self.size).flatten(1)

    def fingerprint(self) -> str:
        return short_hash("brightness of pixels", self.resize)
