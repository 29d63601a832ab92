"""Images of any size as squares of one size."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageColor, ImageOps

from .decode import GREY, Decoded

Fit = Literal["crop", "pad"]
"""The square in the middle, or all of an image with bars beside it."""

Filter = Literal["lanczos", "box"]
"""Of the resampling: sharp, or the mean over each new pixel's area."""

FILTERS: dict[Filter, Image.Resampling] = {
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}


class Style(NamedTuple):
    """Way in which images become squares of one size."""

    resolution: int
    fit: Fit
    background: str
    filter: Filter = "lanczos"

    def square(self, image: Decoded) -> Image.Image:
        """Return the image as grey or RGB of ``resolution`` × ``resolution``."""
        grey = image.mode in GREY and "transparent" not in image.changes
        plain = image.over(self.background).convert("L" if grey else "RGB")
        size = (self.resolution, self.resolution)
        method = FILTERS[self.filter]
        if self.fit == "crop":
            return ImageOps.fit(plain, size, method)
        colour = ImageColor.getcolor(self.background, plain.mode)
        return ImageOps.pad(plain, size, method, color=colour)

    def enlarges(self, size: tuple[int, int]) -> bool:
        return (min(size) if self.fit == "crop" else max(size)) < self.resolution

    def pixels(self, image: Decoded, channels: int) -> np.ndarray:
        """Return uint8 pixels (resolution, resolution, channels), grey or RGB."""
        square = self.square(image).convert("L" if channels == 1 else "RGB")
        return np.array(square).reshape(self.resolution, self.resolution, channels)
