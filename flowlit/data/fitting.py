"""Images of any size as squares of one size."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageColor, ImageOps

from .decode import GREY, Decoded

Fit = Literal["crop", "pad"]
"""The square in the middle, or all of an image with bars beside it."""


class Style(NamedTuple):
    """Way in which images become squares of one size."""

    resolution: int
    fit: Fit
    background: str

    def square(self, image: Decoded) -> Image.Image:
        """Return the image as grey or RGB of ``resolution`` × ``resolution``."""
        grey = image.mode in GREY and "transparent" not in image.changes
        plain = image.over(self.background).convert("L" if grey else "RGB")
        size = (self.resolution, self.resolution)
        if self.fit == "crop":
            return ImageOps.fit(plain, size, Image.Resampling.LANCZOS)
        colour = ImageColor.getcolor(self.background, plain.mode)
        return ImageOps.pad(plain, size, Image.Resampling.LANCZOS, color=colour)

    def enlarges(self, size: tuple[int, int]) -> bool:
        return (min(size) if self.fit == "crop" else max(size)) < self.resolution

    def pixels(self, image: Decoded, channels: int) -> np.ndarray:
        """Return uint8 pixels (resolution, resolution, channels), grey or RGB."""
        square = self.square(image).convert("L" if channels == 1 else "RGB")
        return np.array(square).reshape(self.resolution, self.resolution, channels)
