"""Checksums of files: what a set of images is known by, wherever it lies and whenever it was copied."""

from __future__ import annotations

import hashlib
import zlib
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from .._support.files import open_plain
from .._support.schema import Format
from ..errors import FlowlitError
from .listing import Paths
from .long_work import Kept, each

_CHUNK = 1 << 20


class Checksums(msgspec.Struct):
    """CRC-32 of each file, in order, as hexadecimal digits of little-endian numbers."""

    crc32: Annotated[str, Meta(pattern="^([0-9a-f]{8})*$")]
    format: str = "flowlit-checksums"
    version: int = 1


_KEPT = Kept(
    Format(Checksums, "record of checksums", "remove it", "flowlit-checksums", limit=1 << 28),
    ".checksums.json",
)


def checksums(files: Paths, stats: np.ndarray) -> np.ndarray:
    """Return the CRC-32 of each file, (files,) uint32; those of unchanged names, sizes and times are kept.

    Args:
        files: to read.
        stats: (files, 2) int64 of their bytes and nanoseconds of change.

    Raises:
        FlowlitError: naming a file that cannot be read.
    """

    def find() -> Checksums:
        sums = np.array([*each(len(files), lambda i: _checksum(files.place(i)), "Reading images")], "<u4")
        return Checksums(sums.tobytes().hex())

    key = hashlib.sha256(str(files.root.absolute()).encode(errors="surrogateescape"))
    key.update(files.digest() + stats.tobytes())
    record = _KEPT.get(key.hexdigest()[:32], find)
    if len(record.crc32) != 8 * len(files):  # it is damaged
        record = find()
    return np.frombuffer(bytes.fromhex(record.crc32), "<u4").astype(np.uint32)


def content_of(files: Paths, stats: np.ndarray, sums: np.ndarray) -> str:
    """Return a hash of the names, the sizes and the content of files, without their times."""
    facts = np.stack([stats[:, 0], sums.astype(np.int64)])
    return hashlib.sha256(files.digest() + facts.tobytes()).hexdigest()


def _checksum(path: str) -> int:
    checksum = 0
    try:
        with open(path, "rb", opener=open_plain) as file:
            while chunk := file.read(_CHUNK):
                checksum = zlib.crc32(chunk, checksum)
    except OSError as error:
        raise FlowlitError(f"{path} cannot be read ({error}); mend or remove it") from error
    return checksum
