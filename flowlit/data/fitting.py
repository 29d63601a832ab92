"""Images of any size as squares of one size."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageColor, ImageOps

from .decode import GREY, Decoded, UnreadableImage

Fit = Literal["crop", "pad"]
"""The square in the middle, or all of an image with bars beside it."""

Cut = Literal["crop", "pad", "patches"]
"""A fit, or the squares side by side that an image has in its own size, from its upper left corner."""

Filter = Literal["lanczos", "box"]
"""Of the resampling: sharp, or the mean over each new pixel's area."""

FILTERS: dict[Filter, Image.Resampling] = {
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}


class Style(NamedTuple):
    """Way in which images become squares of one size."""

    resolution: int
    fit: Cut
    background: str
    filter: Filter = "lanczos"

    def square(self, image: Decoded) -> Image.Image:
        """Return the image as grey or RGB of ``resolution`` × ``resolution``."""
        plain = self._plain(image)
        size = (self.resolution, self.resolution)
        method = FILTERS[self.filter]
        if self.fit == "crop":
            return ImageOps.fit(plain, size, method)
        colour = ImageColor.getcolor(self.background, plain.mode)
        return ImageOps.pad(plain, size, method, color=colour)

    def squares(self, image: Decoded) -> list[Image.Image]:
        """Return the one square of the image, or of "patches" as many as it has, row by row.

        Raises:
            UnreadableImage: for an image that is smaller than a patch.
        """
        if self.fit != "patches":
            return [self.square(image)]
        plain = self._plain(image)
        side = self.resolution
        width, height = plain.size
        if min(width, height) < side:
            raise UnreadableImage(f"{width}×{height} pixels are fewer than a patch of {side}×{side}")
        corners = [
            (x, y) for y in range(0, height - side + 1, side) for x in range(0, width - side + 1, side)
        ]
        return [plain.crop((x, y, x + side, y + side)) for x, y in corners]

    def _plain(self, image: Decoded) -> Image.Image:
        """Return the image over the background, grey or RGB, in its own size."""
        grey = image.mode in GREY and "transparent" not in image.changes
        return image.over(self.background).convert("L" if grey else "RGB")

    def enlarges(self, size: tuple[int, int]) -> bool:
        if self.fit == "patches":
            return False
        return (min(size) if self.fit == "crop" else max(size)) < self.resolution

    def pixels(self, image: Decoded, channels: int) -> np.ndarray:
        """Return uint8 pixels (resolution, resolution, channels), grey or RGB."""
        square = self.square(image).convert("L" if channels == 1 else "RGB")
        return np.array(square).reshape(self.resolution, self.resolution, channels)
