"""Photographs of any size, read with all that a viewer needs, and written as PNG.

Other images are squares of 8 bits to train on (``decode``). A photograph keeps its bits, transparency, colour
profile and EXIF; it stands upright.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from .._support.files import open_plain, write_atomically
from .decode import FORMATS, GREY, ORIENTATION, UnreadableImage, load

MODES = {*GREY, "RGB", "RGBA"}
"""Modes of files that are read."""

HINTS = {"P": "a palette", "PA": "a palette", "CMYK": "CMYK, the colours of print"}

SIZES = (0x0100, 0x0101)
"""EXIF's width and height of the image, which is given another size."""

SIZES_INSIDE = {ExifTags.IFD.Exif: (0xA002, 0xA003), ExifTags.IFD.Interop: (0x1001, 0x1002)}
"""The same in parts of it."""

BAND = 256
"""Rows that are rounded, or compressed, at a time: a large image is not in memory many times."""

BLEED = 8
"""Pixels by which visible colours are carried into what is transparent."""


class Photograph(NamedTuple):
    """An upright image, and what else its file had."""

    pixels: Tensor  # (C, H, W) float32 in [0, 1]; C is 1 (grey) or 3 (RGB, not linear)
    alpha: Tensor | None = None  # (1, H, W) float32 in [0, 1]
    bits: int = 8  # of a channel: 8 or 16
    icc: bytes | None = None  # its colour profile
    exif: bytes | None = None  # without orientation, width and height

    @property
    def size(self) -> str:
        """Width and height, as 640×427."""
        return f"{self.pixels.shape[2]}×{self.pixels.shape[1]}"


def read_photograph(path: Path) -> Photograph:
    """Read a photograph: grey or RGB, of 8 or 16 bits, opaque or not.

    Raises:
        UnreadableImage: for broken files, and those with a palette, CMYK, several frames, or values without a
            known range; the message says why, without the name.
    """
    try:
        with open(path, "rb", opener=open_plain) as file:
            return _read(file)
    except OSError as error:
        raise UnreadableImage(error.strerror or str(error)) from error


def _read(file: IO[bytes]) -> Photograph:
    decoded = load(file)
    if "animated" in decoded.changes:
        raise UnreadableImage("it has several frames; save one of them as PNG")
    if decoded.mode not in MODES:
        raise UnreadableImage(
            f"it has {HINTS.get(decoded.mode, f'mode {decoded.mode}')}; save it in RGB or grey"
        )
    channels = 1 if decoded.mode in GREY else 3
    image = decoded.image
    alpha = None
    if image.mode in ("LA", "La", "RGBA"):
        alpha = _planes(image.convert("RGBA").getchannel("A")) / 255
    pixels = _planes(image.convert("L" if channels == 1 else "RGB")) / 255
    icc, exif = _extras(file)
    if "16 bits" not in decoded.changes:
        return Photograph(pixels, alpha, 8, icc, exif)
    deep = _sixteen_bits(file, decoded.format)
    if len(deep) in (2, 4):
        alpha = deep[-1:]
    return Photograph(deep[: 1 if len(deep) < 3 else 3], alpha, 16, icc, exif)


def _planes(image: Image.Image) -> Tensor:
    """Return the values of an image as (C, H, W) float32."""
    array = np.asarray(image).reshape(image.height, image.width, -1)
    return torch.from_numpy(array.transpose(2, 0, 1).astype(np.float32))


def _sixteen_bits(file: IO[bytes], format: str) -> Tensor:
    """Return all bits of a file that decodes, upright: (1 … 4, H, W) float32 in [0, 1]."""
    file.seek(0)
    if format == "PNG":
        from torchvision.io import ImageReadMode, decode_png

        data = torch.from_numpy(np.frombuffer(file.read(), np.uint8).copy())
        return decode_png(data, ImageReadMode.UNCHANGED, apply_exif_orientation=True).float() / 65535
    with Image.open(file, formats=FORMATS) as image:
        image.load()  # Pillow turns these upright
        if not image.mode.startswith("I;16"):
            raise UnreadableImage(f"it is a {format} of 16 bits in colour; save it as PNG")
        return _planes(image) / 65535


def _extras(file: IO[bytes]) -> tuple[bytes | None, bytes | None]:
    """Return the colour profile and the EXIF of a file, whose image stands upright from now on.

    EXIF is without what the pixels have to say themselves: orientation, width and height.
    """
    file.seek(0)
    with Image.open(file, formats=FORMATS) as image:
        profile = image.info.get("icc_profile")
        icc = profile if isinstance(profile, bytes) and profile else None
        if image.format == "TIFF":  # whose tags also describe its pixels
            return icc, None
        try:
            exif = image.getexif()
            for tag in (ORIENTATION, *SIZES):
                exif.pop(tag, None)
            for part, tags in SIZES_INSIDE.items() if ExifTags.IFD.Exif in exif else ():
                for tag in tags:
                    exif.get_ifd(part).pop(tag, None)
            return icc, exif.tobytes() if len(exif) else None
        except Exception:  # damaged EXIF
            return icc, None


def write_photograph(path: Path, photograph: Photograph, facts: Mapping[str, str] = {}) -> None:
    """Write a photograph as PNG, whole or not at all.

    Args:
        path: of the file.
        photograph: to write; values are clipped, and rounded to its bits.
        facts: texts by name that the file is to have.

    Raises:
        FlowlitError: if the disk is full or cannot be written.
    """
    values = _levels(photograph)
    text = PngInfo()
    for name, fact in facts.items():
        text.add_text(name, fact)
    extras: dict[str, Any] = {"pnginfo": text, "icc_profile": photograph.icc, "exif": photograph.exif or b""}
    if photograph.bits == 8:
        image = Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values)
        write_atomically(path, lambda file: image.save(file, "PNG", **extras))
    else:
        write_atomically(path, lambda file: write_deep_png(file, values, extras))


def _levels(photograph: Photograph) -> np.ndarray:
    """Return clipped and rounded values, with transparency, (H, W, 1 … 4) uint8 or uint16."""
    planes = [*photograph.pixels, *(() if photograph.alpha is None else photograph.alpha)]
    most = 2**photograph.bits - 1
    values = np.empty((*planes[0].shape, len(planes)), np.uint8 if photograph.bits == 8 else np.uint16)
    for place, plane in enumerate(planes):
        for top in range(0, len(plane), BAND):
            rows = plane[top : top + BAND].double().clamp_(0, 1).mul_(most).round_()
            values[top : top + BAND, :, place] = rows.numpy()
    return values


def write_deep_png(file: IO[bytes], values: np.ndarray, extras: Mapping[str, Any]) -> None:
    """Write the PNG of pixels (H, W, 1 … 4) of 16 bits, which Pillow does not write in colour.

    Args:
        file: to write to.
        values: grey, grey and alpha, RGB, or RGB and alpha.
        extras: of a PNG, as Pillow's ``save`` takes them.
    """
    height, width, channels = values.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    file.write(b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header))
    file.writelines(_other_chunks(extras))
    file.writelines(_chunk(b"IDAT", part) for part in _compressed(values))
    file.write(_chunk(b"IEND", b""))


def _compressed(values: np.ndarray) -> Iterator[bytes]:
    """Yield the compressed rows of pixels (H, W, channels) of 16 bits, some at a time."""
    compressor = zlib.compressobj(6)
    above = np.zeros((1, values[0].nbytes), np.uint8)
    for top in range(0, len(values), BAND):
        rows = values[top : top + BAND].astype(">u2").view(np.uint8).reshape(-1, above.size)
        differences = np.diff(np.concatenate([above, rows]), axis=0)  # from the row above: the filter "up"
        above = rows[-1:]
        yield compressor.compress(np.insert(differences, 0, 2, axis=1).tobytes())
    yield compressor.flush()


def _other_chunks(extras: Mapping[str, Any]) -> list[bytes]:
    """Return the chunks of text, profile and EXIF, as Pillow writes them into a PNG of one pixel."""
    file = io.BytesIO()
    Image.new("RGB" if extras.get("icc_profile") else "L", (1, 1)).save(file, "PNG", **extras)
    data = file.getvalue()
    chunks = []
    place = 8
    while place < len(data):
        length = struct.unpack(">I", data[place : place + 4])[0] + 12
        if data[place + 4 : place + 8] not in (b"IHDR", b"IDAT", b"IEND"):
            chunks.append(data[place : place + length])
        place += length
    return chunks


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_bled_colours(photograph: Photograph) -> Tensor:
    """Return the colours (C, H, W) with those of visible pixels carried into fully transparent ones.

    There files have any colour, often black, which would show as a rim once the image is resized.
    """
    if photograph.alpha is None:
        return photograph.pixels
    visible = (photograph.alpha > 0).float()
    colours = photograph.pixels * visible
    for _ in range(BLEED):
        around = torch.nn.functional.avg_pool2d(torch.cat([colours, visible])[None], 3, 1, 1)[0]
        means = around[:-1] / around[-1:].clamp_min(1e-6)
        fresh = (visible == 0) & (around[-1:] > 1e-6)
        colours = torch.where(fresh, means, colours)
        visible = torch.where(fresh, torch.ones_like(visible), visible)
    return colours
