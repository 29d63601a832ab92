"""Generated images in one file: a zip of PNGs with their classes, or arrays."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterable, Sequence
from typing import IO

import numpy as np

from ..data.listing import CARD, LABELS, MEMBER_DATE, member_name
from ..errors import FlowlitError
from .folder import RECORD, PictureFolder

Labels = Sequence[int | None]
"""Class of each image; None without classes."""


def write_zip(file: IO[bytes], images: PictureFolder, labels: Labels, names: Sequence[str] | None) -> None:
    """Write the images of a folder as a zip, which ``flowlit.data.ImageZip`` reads.

    It has ``dataset.json`` with their classes, as StyleGAN's and EDM's, and ``card.json`` with what they were
    made with. Equal images make equal files.
    """
    with zipfile.ZipFile(file, "w") as archive:
        for index in range(images.num):
            member = zipfile.ZipInfo(member_name(index), MEMBER_DATE)
            archive.writestr(member, images.file(index).read_bytes())
        content: dict[str, object] = {"labels": None}
        if any(label is not None for label in labels):
            content = {"labels": [[member_name(index), label] for index, label in enumerate(labels)]}
            content |= {"classes": list(names)} if names else {}
        text = json.dumps(content, indent=1, ensure_ascii=False)
        archive.writestr(zipfile.ZipInfo(LABELS, MEMBER_DATE), text)
        record = (images.path / RECORD).read_text(encoding="utf-8")
        archive.writestr(zipfile.ZipInfo(CARD, MEMBER_DATE), record)


def write_npz(file: IO[bytes], images: PictureFolder, labels: Labels, shape: Sequence[int]) -> None:
    """Write the images of a folder as arrays, by the custom of ADM and EDM.

    ``arr_0`` is uint8 (N, H, W, C), ``arr_1`` has the classes, int64 (N,), and is left out without them. One
    image at a time is in memory.

    Args:
        file: to write to.
        images: of one shape.
        labels: their classes.
        shape: (C, H, W).
    """
    size = (images.num, *shape[1:], shape[0])
    with zipfile.ZipFile(file, "w") as archive:
        _write_array(archive, "arr_0", "|u1", size, _pixels(images, math.prod(shape)))
        if any(label is not None for label in labels):
            classes = np.array(labels, "<i8")
            _write_array(archive, "arr_1", "<i8", classes.shape, [classes.tobytes()])


def _pixels(images: PictureFolder, size: int) -> Iterable[bytes]:
    """Yield the pixels of images, of ``size`` bytes each."""
    from PIL import Image

    for index in range(images.num):
        with Image.open(images.file(index), formats=["PNG"]) as image:
            pixels = image.tobytes()
        if len(pixels) != size:
            raise FlowlitError(f"{images.file(index)} has {len(pixels)} bytes, expected {size}; remove it")
        yield pixels


def _write_array(
    archive: zipfile.ZipFile, name: str, dtype: str, shape: tuple[int, ...], parts: Iterable[bytes]
) -> None:
    member = zipfile.ZipInfo(f"{name}.npy", MEMBER_DATE)
    with archive.open(member, "w", force_zip64=True) as out:
        header = {"descr": dtype, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(out, header)
        for part in parts:
            out.write(part)
