"""Decoding of image files: the one place where they become pixels.

Pixels are those that a viewer shows: upright, over a background where the image is transparent, and in 8 bits
a channel.
"""

from __future__ import annotations

from typing import IO, NamedTuple

import numpy as np
from PIL import Image, ImageColor, UnidentifiedImageError

from ..errors import FlowlitError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}
"""Files with these names are read; what is in them may also be a GIF or a TIFF."""

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF")

MOST_PIXELS = 8192**2
"""A larger image is not decoded: a file of a few kilobytes may unpack to gigabytes."""

GREY = {"1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I;16N"}
"""Modes without colours."""

CHANGES = {
    "transparent": "transparent over {background}",
    "turned": "turned upright (EXIF)",
    "16 bits": "of 16 bits read as 8",
    "animated": "animated (the first frame)",
}
"""What decoding does to some images, and how a summary puts it."""

ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImage(Exception):
    """An image cannot be decoded; the message says why, without its name."""


class OtherSize(UnreadableImage):
    """An image is of another ``size`` (width, height) than expected."""

    def __init__(self, size: tuple[int, int]):
        super().__init__("it is {}×{} pixels".format(*size))
        self.size = size


class Decoded(NamedTuple):
    """An image, upright and with 8 bits a channel, and what was in its file."""

    image: Image.Image
    format: str
    mode: str  # of the file: L, RGB, I;16 …
    changes: tuple[str, ...]  # of ``CHANGES``

    def over(self, background: str) -> Image.Image:
        """Return the image without transparency."""
        if "transparent" not in self.changes:
            return self.image
        colour = (*ImageColor.getrgb(background)[:3], 255)
        page = Image.new("RGBA", self.image.size, colour)
        return Image.alpha_composite(page, self.image).convert("RGB")

    def array(self, channels: int, background: str) -> np.ndarray:
        """Return uint8 pixels (H, W, channels), grey or RGB."""
        image = self.over(background).convert("L" if channels == 1 else "RGB")
        return np.array(image).reshape(image.height, image.width, channels)


def load(file: IO[bytes], resolution: int | None = None) -> Decoded:
    """Decode an image, if its header fits.

    Args:
        file: content of the image.
        resolution: expected width and height in pixels; None takes any.

    Raises:
        OtherSize: if it is of another resolution.
        UnreadableImage: if it is broken, of another format, too large, or of values without a known range.
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            if resolution is not None and image.size != (resolution, resolution):
                raise OtherSize(image.size)
            if image.width * image.height > MOST_PIXELS:
                raise UnreadableImage(
                    f"it is too large: {image.width}×{image.height}, expected at most {MOST_PIXELS:,} pixels"
                )
            return _decoded(image)
    except UnreadableImage:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImage("its content is no image of a known format") from error
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"it is too large: {error}") from error
    except Exception as error:  # damaged bytes lead decoders to errors of many kinds
        raise UnreadableImage(str(error) or type(error).__name__) from error


def check_colour(background: str) -> None:
    """Refuse what is not the name of a colour."""
    try:
        ImageColor.getrgb(background)
    except (ValueError, AttributeError, TypeError) as error:
        raise FlowlitError(
            f"background is {background!r}; expected a colour such as white or '#808080'"
        ) from error


def _decoded(image: Image.Image) -> Decoded:
    name = image.format or ""
    mode = image.mode
    # counting frames would read all of them; those of a camera are previews
    animated = name != "MPO" and getattr(image, "is_animated", False)
    # has the bits of a channel, and is gone once the pixels are there
    encoding = str(getattr(image, "tile", ""))
    image.load()
    changes = ["animated"] if animated else []
    if ";16" in mode or ";16" in encoding:
        changes.append("16 bits")
    plain = _eight_bits(image, encoding)
    upright = _UPRIGHT.get(_orientation(image))
    if upright is not None:
        plain = plain.transpose(upright)
        changes.append("turned")
    if plain.has_transparency_data:
        layers = plain.convert("RGBA")
        if layers.getchannel("A").getextrema() != (255, 255):
            plain = layers
            changes.append("transparent")
    return Decoded(plain, "JPEG" if name == "MPO" else name, mode, tuple(sorted(changes)))


def _eight_bits(image: Image.Image, encoding: str) -> Image.Image:
    """Return the image with 8 bits a channel, of which 16 keep the upper half."""
    clear = image.info.get("transparency")  # a grey or a colour, in the units of the file
    if image.mode in ("I", "F"):
        raise UnreadableImage(f"mode {image.mode}: its values have no known range; save it in 8 or 16 bits")
    if image.mode.startswith("I;16"):
        values = np.asarray(image)
        grey = Image.fromarray((values >> 8).astype(np.uint8))
        if isinstance(clear, int):
            grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
        return grey
    if image.mode == "LAB":
        return image.convert("RGB")
    if isinstance(clear, tuple) and ";16" in encoding:
        raise UnreadableImage("16 bits and one transparent colour; save it with an alpha channel")
    if isinstance(clear, int) and image.mode == "L":
        levels = {"L;2": 3, "L;4": 15}
        white = next((level for name, level in levels.items() if name in encoding), 255)
        image.info["transparency"] = clear * 255 // white
    return image


def _orientation(image: Image.Image) -> int:
    """Return how the camera was held, 1 … 8 as in EXIF; 1 if the file does not have it."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged EXIF: viewers show the pixels as they are
        return 1
