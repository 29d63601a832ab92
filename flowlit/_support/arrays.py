"""Arrays of NumPy in files: header and size agree before anything is allocated, and nothing is unpickled."""

from __future__ import annotations

import math
import os
import stat
import zipfile
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

SMALL = 64 << 20
"""Bytes up to which a compressed array may be of any ratio."""


RATIO = 100
"""Bytes of a larger compressed array for each one in the file, at most."""


class Header(NamedTuple):
    """Type and shape of an array, and where its entries begin."""

    dtype: np.dtype
    shape: tuple[int, ...]
    fortran: bool
    begin: int

    @property
    def nbytes(self) -> int:
        """Bytes of all entries."""
        return self.dtype.itemsize * math.prod(self.shape)


def read_header(file: IO[bytes], size: int, kinds: str = "fiub") -> Header:
    """Read the header of an array in a file, of which ``size`` bytes belong to it.

    Raises:
        ValueError: if it is damaged, or of other kinds of numbers (as in ``dtype.kind``) than are expected.
    """
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, fortran, dtype = read[version](file)
        header = Header(dtype, shape, fortran, file.tell())
    except Exception as error:  # whatever NumPy's parser makes of damaged text
        raise ValueError(f"its header is damaged: {_why(error)}") from error
    if dtype.hasobject:
        raise ValueError("it holds pickled objects, which could run code (allow_pickle)")
    if dtype.kind not in kinds:
        raise ValueError(f"it holds {dtype}")
    if min(shape, default=0) < 0 or header.begin + header.nbytes != size:
        raise ValueError(f"it has {size:,} bytes, its header says {dtype} {shape}")
    return header


def map_npy(path: Path) -> np.ndarray:
    """Map an array from a .npy file, read-only.

    Raises:
        ValueError: if it is damaged, or no array of numbers.
        OSError: if it is missing, or cannot be read.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is no plain file")
    with open(path, "rb") as file:
        header = read_header(file, status.st_size)
    if not header.nbytes:
        return np.empty(header.shape, header.dtype)
    order = "F" if header.fortran else "C"
    return np.memmap(path, header.dtype, "r", header.begin, header.shape, order)  # type: ignore[call-overload]


def _why(error: Exception) -> str:
    """Return what a parser says, on one line, or else the kind of its error."""
    return " ".join(str(error).split())[:100] or type(error).__name__


class Npz:
    """An open .npz file, whose arrays are read one by one; a context manager.

    Args:
        path: of the file.

    Raises:
        ValueError: if it is damaged, or no plain file; so do the methods.
        OSError: if it is missing, or cannot be read.
    """

    def __init__(self, path: Path):
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is no plain file")
        self.size = status.st_size
        try:
            self.archive = zipfile.ZipFile(path)
        except Exception as error:  # whatever zipfile makes of damaged directories
            raise ValueError(f"it is no zip archive: {_why(error)}") from error

    def __enter__(self) -> Npz:
        return self

    def __exit__(self, *error: Any) -> None:
        self.archive.close()

    def __contains__(self, name: str) -> bool:
        return f"{name}.npy" in self.archive.NameToInfo

    def header(self, name: str, kinds: str = "fiub") -> Header:
        """Read type and shape of an array, as in ``read_header``."""
        with self._opened(name) as file:
            return self._header(file, name, kinds)

    def read(self, name: str, kinds: str = "fiub") -> np.ndarray:
        """Read an array, after its checksum was compared."""
        with self._opened(name) as file:
            header = self._header(file, name, kinds)
            array = np.empty(header.shape[::-1] if header.fortran else header.shape, header.dtype)
            buffer = memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
            try:
                while buffer:
                    read = file.readinto(buffer)  # type: ignore[attr-defined]
                    if not read:
                        raise ValueError("it ends too early")
                    buffer = buffer[read:]
                file.read(1)  # at the end the checksum is compared
            except Exception as error:  # whatever zipfile and zlib make of damaged bytes
                raise ValueError(f"{name} is damaged: {_why(error)}") from error
        return array.T if header.fortran else array

    def _opened(self, name: str) -> IO[bytes]:
        try:
            return self.archive.open(f"{name}.npy")
        except KeyError:
            raise ValueError(f"it has no {name}") from None
        except Exception as error:  # whatever zipfile makes of damaged entries
            raise ValueError(f"{name} is damaged: {_why(error)}") from error

    def _header(self, file: IO[bytes], name: str, kinds: str) -> Header:
        info = self.archive.getinfo(f"{name}.npy")
        if info.compress_size > self.size or info.file_size > max(SMALL, RATIO * info.compress_size):
            raise ValueError(f"{name} would grow from {info.compress_size:,} to {info.file_size:,} bytes")
        return read_header(file, info.file_size, kinds)
