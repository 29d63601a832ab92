"""The archive that a checkpoint is: its checksums, and whether its pickle and its tensors belong together.

PyTorch writes a CRC-32 of each part of the archive, and does not compare it when it reads.
"""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from ...errors import FlowlitError


def is_archive(path: str | Path) -> bool:
    """Return whether a file begins as PyTorch's archives do."""
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


def check_archive(path: str | Path) -> None:
    """Compare the checksums of a checkpoint, and the sizes of its tensors with what its pickle claims.

    Raises:
        FlowlitError: naming the part that is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = _damaged(archive)
    except Exception as error:  # whatever zipfile and pickle make of damaged names, sizes and offsets
        raise torn(path, error) from error
    if damaged:
        raise FlowlitError(
            f"checkpoint {path} is corrupt ({damaged}); use an older one (fit: --resume auto finds it), or "
            "fetch it again"
        )


def outline(path: str | Path) -> Any:
    """Return the content of a checkpoint without its tensors, of which nothing is read.

    Raises:
        FlowlitError: if it is torn, or no archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            [name] = _pickles(archive)
            return _Outline(archive.read(name)).content
    except Exception as error:  # as above
        raise torn(path, error) from error


def torn(path: str | Path, error: Exception) -> FlowlitError:
    """Return the error of a file that no parser of checkpoints can read."""
    why = str(error).strip().split("\n")[0][:120] or type(error).__name__
    return FlowlitError(
        f"checkpoint {path} is torn or not a checkpoint ({why}); use an older one, or fetch it again"
    )


def _pickles(archive: zipfile.ZipFile) -> list[str]:
    return [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]


def _damaged(archive: zipfile.ZipFile) -> str | None:
    """Return the first part that is not as it was written; None if all are."""
    sizes = {part.filename: part.file_size for part in archive.infolist()}
    if len(sizes) < len(archive.infolist()):
        return "a part is there twice"
    for part in archive.infolist():
        if part.compress_type != zipfile.ZIP_STORED:  # PyTorch maps its bytes as they are
            return f"{part.filename} is compressed, expected zip -0"
    if corrupt := archive.testzip():
        return corrupt
    for name in _pickles(archive):
        for key, claimed in _Outline(archive.read(name)).sizes.items():
            size = sizes.get(f"{name.removesuffix('data.pkl')}data/{key}", 0)
            if size != claimed:
                return f"data/{key} has {size:,} bytes, its tensor {claimed:,}"
    return None


class _Outline(pickle._Unpickler):  # the one in C makes room for as many objects as a pickle says
    """The content of a pickle without tensors, and the bytes of each tensor's storage as it claims them.

    Nothing that the pickle names is imported or called.
    """

    def __init__(self, content: bytes):
        super().__init__(io.BytesIO(content))
        self.sizes: dict[str, int] = {}
        with warnings.catch_warnings(action="ignore"):  # about typed storages, of which only the size is read
            self.content = self.load()

    def find_class(self, module: str, name: str) -> Any:
        dtype = getattr(getattr(torch, name, None), "dtype", None) if module == "torch" else None
        if isinstance(dtype, torch.dtype):
            return dtype.itemsize
        return 1 if name == "UntypedStorage" else _Inert

    def persistent_load(self, pid: Any) -> None:
        _, itemsize, key, _, numel = pid
        self.sizes[key] = itemsize * numel


class _Inert(dict):
    """An object in the place of any that a pickle names: whatever is done with it, it does nothing."""

    __hash__ = object.__hash__  # type: ignore[assignment]

    def __init__(self, *arguments: Any, **named: Any):
        super().__init__()

    def __call__(self, *arguments: Any, **named: Any) -> _Inert:
        return self

    def __getattr__(self, name: str) -> _Inert:
        return self

    def __setstate__(self, state: Any) -> None:
        pass
