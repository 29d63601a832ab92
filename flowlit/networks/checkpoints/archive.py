"""The archive that a checkpoint is: its checksums, and whether its pickle and its tensors belong together.

PyTorch writes a CRC-32 of each part of the archive, and does not compare it when it reads.
"""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import torch

from ...errors import FlowlitError

PICKLES = 4
"""Pickles that a file of the format before 1.6 begins with; the last is the content."""

HEAVY = 100_000
"""Entries of a tuple, at most, those of tuples inside it each time that they are there."""


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
            return _Outline(io.BytesIO(archive.read(name))).content
    except Exception as error:  # as above
        raise torn(path, error) from error


def check_keys(path: str | Path) -> None:
    """Refuse a file of PyTorch's format before 1.6, pickles in a row, with keys that take ages to hash.

    Raises:
        FlowlitError: naming the bound; whatever else is wrong is found when it is read.
    """
    with open(path, "rb") as file:
        try:
            for _ in range(PICKLES):
                _Outline(file)
        except _Costly as error:
            raise torn(path, error) from error
        except Exception:  # no such file, which torch.load says better
            return


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
        for key, claimed in _Outline(io.BytesIO(archive.read(name))).sizes.items():
            size = sizes.get(f"{name.removesuffix('data.pkl')}data/{key}", 0)
            if size != claimed:
                return f"data/{key} has {size:,} bytes, its tensor {claimed:,}"
    return None


class _Costly(ValueError):
    """Keys or tuples whose hash would take more time than their file has bytes."""


class _Outline(pickle._Unpickler):  # the one in C makes room for as many objects as a pickle says
    """The content of a pickle without tensors, and the bytes of each tensor's storage as it claims them.

    Nothing that the pickle names is imported or called. The time to hash a tuple of tuples doubles with
    each level of shared ones, so that no keys are tuples, and no tuple is large in this sense.
    """

    dispatch = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: IO[bytes]):
        super().__init__(file)
        self.sizes: dict[str, int] = {}
        self.weights: dict[int, int] = {}  # of tuples, by id
        with warnings.catch_warnings(action="ignore"):  # about typed storages, of which only the size is read
            self.content = self.load()

    def find_class(self, module: str, name: str) -> Any:
        dtype = getattr(getattr(torch, name, None), "dtype", None) if module == "torch" else None
        if isinstance(dtype, torch.dtype):
            return dtype.itemsize
        return 1 if name == "UntypedStorage" else _Inert

    def persistent_load(self, pid: Any) -> None:
        _, itemsize, key, _, numel, *_ = pid  # the format before 1.6 has another entry
        self.sizes[key] = itemsize * numel

    def check_keys(self, keys: Iterable[Any]) -> None:
        if any(isinstance(key, (tuple, frozenset)) for key in keys):
            raise _Costly("a key in it is a tuple or a set")

    def weigh(self, entries: tuple[Any, ...]) -> None:
        weight = len(entries) + sum(
            self.weights.get(id(part), 0) for part in entries if isinstance(part, tuple)
        )
        if weight > HEAVY:
            raise _Costly(f"a tuple in it has more than {HEAVY:,} entries")
        self.weights[id(entries)] = weight


def _keyed(load: Callable[[Any], None], keys: slice) -> Callable[[Any], None]:
    """Return a step of the unpickler that first looks at those entries of its stack that become keys."""

    def step(outline: _Outline) -> None:
        outline.check_keys(outline.stack[keys])  # type: ignore[attr-defined]
        load(outline)

    return step


def _weighed(load: Callable[[Any], None]) -> Callable[[Any], None]:
    """Return a step of the unpickler that then weighs the tuple that it has made."""

    def step(outline: _Outline) -> None:
        load(outline)
        outline.weigh(outline.stack[-1])  # type: ignore[attr-defined]

    return step


KEYS = {
    pickle.SETITEM: slice(-2, -1),
    pickle.SETITEMS: slice(0, None, 2),
    pickle.DICT: slice(0, None, 2),
    pickle.ADDITEMS: slice(None),
    pickle.FROZENSET: slice(None),
}
"""Entries of the stack that become keys, or members of a set, by instruction."""

for _code, _where in KEYS.items():
    _Outline.dispatch[_code[0]] = _keyed(_Outline.dispatch[_code[0]], _where)
for _code in (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3):
    _Outline.dispatch[_code[0]] = _weighed(_Outline.dispatch[_code[0]])


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
