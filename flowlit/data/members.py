"""Files in zips, by an array of their places: workers share it, and read without a directory of their own."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterable

import numpy as np

from .decode import UnreadableImage

MEMBER = np.dtype(
    [
        ("shard", "i4"),
        ("method", "i4"),
        ("place", "i8"),
        ("packed", "i8"),
        ("size", "i8"),
        ("crc", "u4"),
        ("name", "u4"),
    ]
)
"""Zip, compression, place of the header, bytes in the zip and unpacked, checksums of content and name."""

_HEADER = 30


def members(files: Iterable[tuple[int, zipfile.ZipInfo]]) -> np.ndarray:
    """Return the members (files,) of zips, each given by the number of its zip and its entry there."""
    rows = [
        (
            shard,
            info.compress_type,
            info.header_offset,
            info.compress_size,
            info.file_size,
            info.CRC,
            zlib.crc32(_encoded(info)),
        )
        for shard, info in files
    ]
    return np.array(rows, MEMBER)


def _encoded(info: zipfile.ZipInfo) -> bytes:
    return info.orig_filename.encode("utf-8" if info.flag_bits & 0x800 else "cp437")


def read_member(zips: int, member: np.void) -> bytes:
    """Read a file that is stored or deflated.

    Args:
        zips: file descriptor of its zip; other readers may use it at the same time.
        member: of ``members``.

    Raises:
        UnreadableImage: if it is damaged.
    """
    place = int(member["place"])
    header = os.pread(zips, _HEADER, place)
    name, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    if header[:4] != b"PK\3\4" or zlib.crc32(os.pread(zips, name, place + _HEADER)) != member["name"]:
        raise UnreadableImage("names in the directory of the zip and beside the file differ")
    content = os.pread(zips, int(member["packed"]), place + _HEADER + name + extra)
    if member["method"] == zipfile.ZIP_DEFLATED:
        try:
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, max(1, int(member["size"])))
        except zlib.error as error:
            raise UnreadableImage(str(error)) from error
    if len(content) != member["size"] or zlib.crc32(content) != member["crc"]:
        raise UnreadableImage("Bad CRC-32: its bytes are not those that were packed")
    return content
