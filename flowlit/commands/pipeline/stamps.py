"""Stamps of files and folders: lines of text that change when these do.

They are cheap: contents count where they are small, sizes and times where they are large. What has other
times, but the same size and content as before, is the same.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from ..._support.files import file_hash

SMALL = 4 << 20
"""Bytes up to which a file, or a folder, is known by its content."""

LARGE = 16 << 30
"""Bytes beyond which its times alone count: to read it would take minutes."""

GONE = "gone"

Inputs = dict[str, str]
"""Stamps by path, as the configuration has it."""


class Stamps:
    """Stamps and contents of inputs, each read once.

    Args:
        root: of a recipe, which holds results and no inputs.
    """

    def __init__(self, root: Path):
        self.stamp = cache(lambda path: stamp(path, root.resolve()))
        self.content = cache(lambda path: content(path, root.resolve()))

    def contents(self, inputs: Inputs) -> dict[str, str]:
        """Return the hashes of inputs whose stamps have times."""
        known = {name: self.content(Path(name)) for name in inputs}
        return {name: digest for name, digest in known.items() if digest is not None}

    def settled(self, inputs: Inputs, state: dict[str, Any]) -> Inputs:
        """Return inputs, with the stamps of a state for those that have other times and nothing else."""
        recorded = state.get("inputs") or {}
        result = dict(inputs)
        for name, known in (state.get("contents") or {}).items():
            now = inputs.get(name)
            old = recorded.get(name, GONE)
            same_size = now is not None and now.rpartition(", ")[0] == old.rpartition(", ")[0]
            if now != old and same_size and self.content(Path(name)) == known:
                result[name] = old
        return result


def content(path: Path, besides: Path) -> str | None:
    """Return a hash of all that a file or a folder holds; None if its stamp is one already, or it is vast."""
    files = sorted(_files(path, besides))
    size = sum(status.st_size for _, status in files)
    if not SMALL < size <= LARGE or path.suffix == ".py":
        return None
    known = hashlib.sha256()
    for file, _ in files:
        try:
            known.update(f"{os.path.relpath(file, path)} {file_hash(file)} ".encode(errors="surrogateescape"))
        except OSError:
            return None
    return known.hexdigest()[:16]


def stamp(path: Path, besides: Path) -> str:
    """Return the stamp of a file or a folder; what lies below ``besides`` does not count."""
    if not os.path.exists(path):
        return GONE
    if path.is_file() and path.suffix == ".py":
        return _code_stamp(path)
    files = sorted(_files(path, besides))
    size = sum(status.st_size for _, status in files)
    known = hashlib.sha256()
    for file, status in files:
        name = os.path.relpath(file, path)
        known.update(f"{name} {status.st_size} ".encode(errors="surrogateescape"))
        if size <= SMALL:
            known.update(_content(file))
        else:
            known.update(str(status.st_mtime_ns).encode())
    count = f"{len(files):,} files, " if path.is_dir() else ""
    return f"{count}{size:,} bytes, {known.hexdigest()[:16]}"


def _content(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError:
        return b"unreadable"


def _code_stamp(path: Path) -> str:
    """Return a stamp of Python code that comments and blank lines do not change."""
    lines = (line.rstrip() for line in path.read_bytes().splitlines())
    code = b"\n".join(line for line in lines if line and not line.lstrip().startswith(b"#"))
    return f"code, {hashlib.sha256(code).hexdigest()[:16]}"


def _files(path: Path, besides: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the plain files of a folder, at any depth, links followed once; or the file itself."""
    if path.is_file():
        yield str(path), path.stat()
    seen: set[tuple[int, int]] = set()
    remaining = [str(path)] if path.is_dir() else []
    while remaining:
        folder = remaining.pop()
        status = os.stat(folder)
        place = (status.st_dev, status.st_ino)
        if place in seen or Path(folder).resolve() == besides:
            continue
        seen.add(place)
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    remaining.append(entry.path)
                elif entry.is_file():
                    yield entry.path, entry.stat()


def difference(before: Inputs, now: Inputs) -> list[str]:
    """Return a line for each input that is not what it was.

    >>> difference({"photos": "80 files, 90 bytes, a"}, {"photos": "79 files, 90 bytes, b"})
    ['photos: 80 files → 79 files']
    >>> difference({"a.zip": "9 bytes, a", "b.zip": "9 bytes, a"}, {"a.zip": "9 bytes, b"})
    ['a.zip: changed, still 9 bytes', 'b.zip: 9 bytes → gone']
    """
    changed = {name: now.get(name, GONE) for name, old in before.items() if now.get(name) != old}
    return [f"{name}: {_changed(before[name], new)}" for name, new in changed.items()]


def _changed(old: str, new: str) -> str:
    was = old.split(", ")[:-1]
    becomes = [new] if new == GONE else new.split(", ")[:-1]
    different = [f"{a} → {b}" for a, b in zip(was, becomes, strict=False) if a != b]
    return different[0] if different else f"changed, still {was[0]}"
