"""One file of pairs, read row by row with ``pread``: no file is mapped, or in memory as a whole.

A file is safetensors: x0 and x1 (rows, C, H, W), index (rows,), conditions such as label (rows,), and without
x0 probe (1, C, H, W), the noise of the first row.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import torch
from msgspec import Meta, Struct
from torch import Tensor

from ..._support.files import file_hash, open_plain
from ..._support.schema import Count, Positive, parse_json
from ...errors import FlowlitError

Fields = dict[str, tuple[Any, tuple[int, ...], int, int]]
"""(dtype, shape, offset in the file, bytes) of each tensor of a header."""


DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "U8": np.uint8,
    "I64": np.int64,
    "I32": np.int32,
    "BOOL": np.bool_,
}


HEADER = 1 << 20
"""Bytes of a header, at most."""


class StoredTensor(Struct):
    """A tensor in the header of a file."""

    dtype: Literal["F64", "F32", "F16", "U8", "I64", "I32", "BOOL"]
    shape: Annotated[list[Positive], Meta(min_length=1, max_length=9)]
    data_offsets: tuple[Count, Count]


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise whatever goes wrong while reading a shard as one clear error."""
    try:
        yield
    except (OSError, KeyError, ValueError) as error:
        raise FlowlitError(
            f"shard {path} is missing or corrupt ({error}). Remove it and run the `flowlit couple` (or "
            "import) command that made the store: only this shard will be made again. A merged store is "
            "removed and merged again"
        ) from error


class ShardFile:
    """An open shard.

    Args:
        path: of the file; only its header is read now.
        checksum: SHA-256 to compare the whole file with; None trusts it.
        fields: of the header, if this file was opened and verified before.

    Raises:
        FlowlitError: if it is missing, truncated, of another format, or its checksum differs.
    """

    def __init__(self, path: Path, checksum: str | None = None, fields: Fields | None = None):
        self.path = path
        self.fd = -1
        with reading(path):
            self.fd = open_plain(path, os.O_RDONLY | os.O_CLOEXEC)  # closed when the shard is deleted
            if fields is not None:
                self._set_fields(fields)
                return
            size = os.fstat(self.fd).st_size
            length = int.from_bytes(os.pread(self.fd, 8, 0), "little")
            if not 0 < length <= min(size - 8, HEADER):
                raise ValueError("it is truncated, or no safetensors file")
            header = msgspec.convert(parse_json(os.pread(self.fd, length, 8)), dict[str, Any])
            self.metadata = msgspec.convert(header.pop("__metadata__", {}), dict[str, str])
            tensors = msgspec.convert(header, dict[str, StoredTensor])
            self._set_fields(_fields(tensors, 8 + length, size))
            if missing := {"x1", "index"} - self.fields.keys():
                raise ValueError(f"it has no {sorted(missing)}")
            if checksum is not None and file_hash(path) != checksum:
                raise ValueError("its checksum is not that of the manifest")

    def _set_fields(self, fields: Fields) -> None:
        self.fields = fields
        self.begin = {name: offset for name, (_, _, offset, _) in fields.items()}

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)

    def __len__(self) -> int:
        return self.fields["index"][1][0]

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Read rows start … stop - 1 of a tensor."""
        dtype, shape, offset, nbytes = self.fields[name]
        rows = range(shape[0])[start:stop]
        array = np.empty((len(rows), *shape[1:]), dtype)
        self.fill(memoryview(array.data).cast("B"), offset + start * (nbytes // shape[0]))
        return array

    def content_hash(self) -> str:
        """SHA-256 of all tensors, as ``Store.write_shard`` records it in the header."""
        digest = hashlib.sha256()
        place = min(self.begin.values())
        end = os.fstat(self.fd).st_size
        while place < end:
            block = memoryview(bytearray(min(1 << 22, end - place)))
            self.fill(block, place)
            digest.update(block)
            place += len(block)
        return digest.hexdigest()

    def fill(self, into: memoryview, offset: int) -> None:
        """Read bytes from a place in the file straight into a buffer; one system call reads 2 GB at most."""
        try:
            while into:
                done = os.preadv(self.fd, [into], offset)
                if not done:
                    raise ValueError("it ends too early")
                into = into[done:]
                offset = offset + done
        except (OSError, ValueError) as error:
            with reading(self.path):
                raise error


def gather(
    opened: Callable[[int], ShardFile],
    kinds: dict[str, tuple[Any, tuple[int, ...]]],
    rows: Sequence[tuple[int, int]],
) -> dict[str, Tensor]:
    """Read rows of tensors, each with a single system call straight to its place in the batch.

    Args:
        opened: returns a shard that was verified.
        kinds: dtype and shape of a row of each tensor.
        rows: number of the shard, and row within it.

    Returns:
        tensors (rows, …) by name.
    """
    for number in {number for number, _ in rows}:
        opened(number)  # only a file that was verified decides how much is allocated
    batch = {name: np.empty((len(rows), *shape), dtype) for name, (dtype, shape) in kinds.items()}
    into = [
        (name, memoryview(array.reshape(-1).view(np.uint8)), array.strides[0])  # type: ignore[arg-type]
        for name, array in batch.items()
    ]
    for place, (number, row) in enumerate(rows):
        shard = opened(number)
        for name, buffer, nbytes in into:
            shard.fill(buffer[place * nbytes : (place + 1) * nbytes], shard.begin[name] + row * nbytes)
    return {name: torch.from_numpy(array) for name, array in batch.items()}


def _fields(tensors: dict[str, StoredTensor], begin: int, end: int) -> Fields:
    """Return the fields of tensors that fill a file from one place to another without a gap."""
    fields: Fields = {}
    place = begin
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].data_offsets):
        dtype = np.dtype(DTYPES[tensor.dtype])
        nbytes = dtype.itemsize * math.prod(tensor.shape)
        if tensor.data_offsets != (place - begin, place - begin + nbytes):
            raise ValueError("its header contradicts itself")
        fields[name] = dtype, tuple(tensor.shape), place, nbytes
        place += nbytes
    if place != end:
        raise ValueError(f"it has {end} bytes, its header says {place}")
    return fields
