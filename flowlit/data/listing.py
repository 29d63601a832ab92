"""Listing of the images in a folder or a zip, and of what is left out there.

Links are followed. Hidden files and folders, and those that systems put beside images, are left out.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import NamedTuple, overload

import numpy as np

from ..errors import FlowlitError
from .decode import SUFFIXES

SHADOWS = {"__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini"}
"""What macOS, a NAS and Windows put beside images; all else of the kind begins with a dot."""

CARD = "card.json"
LABELS = "dataset.json"
MEMBER_DATE = (1980, 1, 1, 0, 0, 0)
"""Of all files in a zip, so that equal images make equal zips."""

MOST_BYTES = 1 << 30
"""A larger file is not read, nor one in a zip that is larger unpacked: decoders may search all of it."""

_PLACES = 1 << 63
"""Places in files that a system can read from; a zip has some that are larger."""


class Entry(NamedTuple):
    """A file of images: its name below the root, with /, and what changes if it does."""

    name: str
    size: int
    mtime_ns: int


def member_name(index: int) -> str:
    """Return the name of an image in a zip that is written."""
    return f"{index // 1000:05d}/img{index:08d}.png"


class Paths(Sequence[Path]):
    """Paths below a folder in two arrays, which workers share.

    Objects would be copied into each worker when they are read, as their counts of references change.
    """

    def __init__(self, root: Path, names: Iterable[str]):
        encoded = [os.fsencode(name) for name in names]
        self.root = root
        self._names = b"".join(encoded)
        self._ends = np.cumsum([0, *map(len, encoded)])

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Path: ...

    @overload
    def __getitem__(self, index: slice) -> list[Path]: ...

    def __getitem__(self, index: int | slice) -> Path | list[Path]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        return self.root / self.name(index)

    def digest(self) -> bytes:
        """Return a hash of all names."""
        return hashlib.sha256(self._names + self._ends.tobytes()).digest()

    def place(self, index: int) -> str:
        """Return a path as text; ``Path`` would intern its parts, in a table that grows in each worker."""
        return os.path.join(self.root, self.name(index))

    def name(self, index: int) -> str:
        """Return a path relative to the folder."""
        position = range(len(self))[index]
        return os.fsdecode(self._names[self._ends[position] : self._ends[position + 1]])


class Listing(NamedTuple):
    """Images in alphabetical order, and counts of what is none: ``{".gif": 3, "hidden": 2}``."""

    entries: list[Entry]
    left_out: Counter[str]


def list_folder(root: Path) -> Listing:
    """Return the images below a folder.

    Raises:
        FlowlitError: for links that lead in a loop or to the same folder twice, a folder that cannot be
            read, or an image that is no file or a link to nothing.
    """
    entries: list[Entry] = []
    left_out: Counter[str] = Counter()
    seen: dict[tuple[int, int], str] = {}
    folders = [""]
    while folders:
        prefix = folders.pop()
        path = os.path.join(root, prefix)
        try:
            _enter(path, seen)
            with os.scandir(path) as files:
                for file in files:
                    name = prefix + file.name
                    suffix = PurePosixPath(name).suffix.lower()
                    if _is_shadow(file.name):
                        left_out["hidden"] += 1
                    elif _is_folder(file):
                        folders.append(f"{name}/")
                    elif suffix in SUFFIXES:
                        _check_link(file)
                        entries.append(_entry(name, file))
                    else:
                        left_out[suffix or "without suffix"] += 1
        except OSError as error:
            raise FlowlitError(f"{path} cannot be read ({error}); mend or remove it") from error
    # NUL is below any letter: names are in order folder by folder, as paths are
    return Listing(sorted(entries, key=lambda entry: entry.name.replace("/", "\0")), left_out)


def sub_folders(root: Path) -> list[str]:
    """Return the names of the folders in a folder, also of empty ones, but for those that are left out.

    Raises:
        FlowlitError: for a link to nothing, since others would be numbered differently without it.
    """
    try:
        with os.scandir(root) as files:
            seen = [file for file in files if not _is_shadow(file.name)]
            for file in seen:
                _check_link(file)
            return [file.name for file in seen if _is_folder(file)]
    except OSError as error:
        raise FlowlitError(f"{root} cannot be read ({error}); mend or remove it") from error


def _enter(path: str, seen: dict[tuple[int, int], str]) -> None:
    """Refuse a folder that was listed before: links may lead in a loop, or to the same images twice."""
    facts = os.stat(path)
    other = seen.setdefault((facts.st_dev, facts.st_ino), path)
    if path.startswith(other) and path != other:
        raise FlowlitError(f"{path} leads back to {other}, a loop of links; remove the link")
    if path != other:
        raise FlowlitError(f"{path} and {other} are one folder by a link, and its images would count twice")


def _is_folder(file: os.DirEntry[str]) -> bool:
    return os.path.isdir(file.path) if file.is_symlink() else file.is_dir()  # a link may lead to itself


def _check_link(file: os.DirEntry[str]) -> None:
    if file.is_symlink() and not os.path.exists(file.path):
        raise FlowlitError(f"{file.path} is a link to something that does not exist; mend or remove it")


def _entry(name: str, file: os.DirEntry[str]) -> Entry:
    facts = file.stat()
    if not stat.S_ISREG(facts.st_mode):
        raise FlowlitError(f"{file.path} is a pipe, socket or device, expected an image; remove it")
    if facts.st_size > MOST_BYTES:
        raise FlowlitError(
            f"{file.path} has {facts.st_size:,} bytes, expected at most {MOST_BYTES:,}; remove it"
        )
    return Entry(name, facts.st_size, facts.st_mtime_ns)


class ZipListing(NamedTuple):
    """Names of images in alphabetical order, and counts of what is none."""

    names: list[str]
    left_out: Counter[str]


def list_zip(archive: zipfile.ZipFile, path: str) -> ZipListing:
    """Return the names of the images in a zip.

    Raises:
        FlowlitError: for two files of one name, or images that are encrypted, too large or nowhere.
    """
    names: list[str] = []
    left_out: Counter[str] = Counter()
    for info in archive.infolist():
        suffix = PurePosixPath(info.filename).suffix.lower()
        if info.is_dir() or info.filename in (CARD, LABELS):
            continue
        if any(_is_shadow(part) for part in re.split(r"[/\\]", info.filename)):
            left_out["hidden"] += 1
        elif suffix in SUFFIXES:
            _check_member(info, path)
            names.append(info.filename)
        else:
            left_out[suffix or "without suffix"] += 1
    names.sort()
    for name, following in pairwise(names):
        if name == following:
            raise FlowlitError(f"{path}:{name} occurs twice; remove one of them")
    return ZipListing(names, left_out)


def _check_member(info: zipfile.ZipInfo, path: str) -> None:
    if info.flag_bits & 1:
        raise FlowlitError(f"{path}:{info.filename} is encrypted; make a zip without a password")
    if max(info.file_size, info.compress_size) > MOST_BYTES:
        raise FlowlitError(
            f"{path}:{info.filename} has {info.file_size:,} bytes unpacked, expected at most {MOST_BYTES:,}; "
            "remove it"
        )
    if info.header_offset >= _PLACES:
        raise FlowlitError(
            f"{path}:{info.filename} lies at byte {info.header_offset:,}, beyond the end; fetch the zip again"
        )


def _is_shadow(name: str) -> bool:
    return name in SHADOWS or (name.startswith(".") and name not in (".", ".."))


def in_words(left_out: Counter[str]) -> str:
    """Return counts as in "3 .gif, 2 hidden", the most frequent first."""
    frequent = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {kind}" for kind, count in frequent)
