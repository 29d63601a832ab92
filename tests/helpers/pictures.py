"""Image files: of every format and mode, with parts that Pillow does not write, broken, and disguised."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms

ORIENTATION = 0x0112


def noise(*shape: int, most: int = 255, dtype: Any = np.uint8) -> np.ndarray:
    """Return pixels of all values, the same at each call."""
    return np.random.default_rng(0).integers(0, most, shape, dtype, endpoint=True)


RGB = noise(9, 7, 3)
ALPHA = noise(9, 7)
DEEP = noise(9, 7, most=65535, dtype=np.uint16)


def image(mode: str) -> Image.Image:
    """Return an image of 7×9 pixels of a mode."""
    if mode == "I;16":
        return Image.fromarray(DEEP)
    if mode in ("I", "F"):
        return Image.fromarray(DEEP.astype({"I": np.int32, "F": np.float32}[mode]))
    if mode == "LAB":
        spaces = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        return ImageCms.buildTransform(*spaces, "RGB", "LAB").apply(Image.fromarray(RGB))
    if mode in ("RGBA", "LA", "PA"):
        picture = Image.fromarray(RGB)
        picture.putalpha(Image.fromarray(ALPHA))
        return picture.convert(mode)
    return Image.fromarray(RGB).convert(mode)


def encoded(picture: Any, format: str = "PNG", **options: Any) -> bytes:
    """Return the file of an image, or of pixels (H, W) or (H, W, channels)."""
    file = io.BytesIO()
    picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    picture.save(file, format, **options)
    return file.getvalue()


def turned(picture: Any, orientation: int, format: str = "JPEG") -> bytes:
    """Return the file of an image with EXIF, which says how the camera was held."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encoded(picture, format, exif=exif, **({"quality": 100} if format == "JPEG" else {}))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int, height: int, bits: int, colour: int, rows: bytes, clear: bytes = b"", more: bytes = b""
) -> bytes:
    """Return a PNG with the bytes of its rows as they are given, each without its filter's byte.

    Args:
        width, height, bits, colour: as the header has them; colour 0 is grey, 2 RGB, 4 grey with alpha.
        rows: of all rows together.
        clear: the chunk tRNS.
        more: chunks before the pixels.
    """
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    length = len(rows) // height if height else 0
    data = b"".join(b"\0" + rows[i * length : (i + 1) * length] for i in range(min(height, 10_000)))
    transparency = chunk(b"tRNS", clear) if clear else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + transparency
        + more
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


def giant(width: int = 20_000, height: int = 20_000) -> bytes:
    """Return a small PNG whose header has 400 million pixels."""
    return png(width, height, 1, 0, b"")


def into_folder(root: Path, files: dict[str, bytes]) -> str:
    root.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return str(root)


def into_zip(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> str:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return str(path)
