"""Zip files of images."""

from __future__ import annotations

import io
import os
import zipfile
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import IO, Any, Literal

import numpy as np

from .._support.files import check_file, open_plain, short_hash
from ..errors import FlowlitError
from ..ranges import PositiveInt, Probability
from .base import _item, _limited
from .classes import Classes, check_same_names, listed, renumbered
from .decode import UnreadableImage
from .files import ImageFiles
from .fitting import Fit
from .labels import has_labels, names_to_take, read_labels
from .listing import in_words, list_zip
from .members import members, read_member
from .split import Part, chosen, facts_of

_Entry = tuple[int, str, int | None]


class ImageZip(ImageFiles):
    """Zip files of images with ``dataset.json``, {"labels": [[name, class], …]}, as StyleGAN and EDM use
    them; "classes" in it may name class 0, 1, ….

    Names are read from the archive and never used as paths on the disk. What is left out, and that all images
    are decoded once before they are used, is as for ``ImageFolder``.

    Args:
        paths: one zip, or several shards whose images follow each other.
        resolution, channels, limit, background: as for ``ImageFolder``.
        labels: put the class into ``cond``; needs ``dataset.json`` in every shard.
        classes: names of class 0, 1, …, or a folder or zip whose classes these are. Where ``dataset.json``
            has names, they decide which number a class gets.
        part, held_out, fit: as for ``ImageFolder``.
    """

    def __init__(
        self,
        paths: str | Sequence[str],
        resolution: PositiveInt | None = None,
        channels: Literal[1, 3] = 3,
        limit: PositiveInt | None = None,
        labels: bool = False,
        background: str = "white",
        classes: Classes = None,
        part: Part = "all",
        held_out: Probability = 0.1,
        fit: Fit | None = None,
    ):
        super().__init__(resolution, channels, limit, labels, background, classes, part, held_out, fit)
        self.paths = _several(paths)
        self._index: list[_Entry] | None = None
        self._names: tuple[str, ...] | None = None
        self._left_out: Counter[str] = Counter()
        self._zips: dict[tuple[int, int], zipfile.ZipFile] = {}  # by process and shard
        self._files: dict[int, IO[bytes]] = {}  # by shard; read at places, so that forked workers can share

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_zips": {}, "_files": {}}  # another process opens its own

    @property
    def sources(self) -> list[str]:
        return self.paths

    @property
    def index(self) -> list[_Entry]:
        """(shard, name, class) of every image."""
        if self._index is None:
            entries = [entry for shard in range(len(self.paths)) for entry in self._list(shard)]
            what = f"image zip {self.source}"
            if len({(s.st_dev, s.st_ino) for s in map(_status, self.paths)}) < len(self.paths):
                raise FlowlitError(f"{what}: one file is given twice; give each zip once")
            count = _limited(len(entries), self.limit, what, in_words(self._left_out))
            given = names_to_take(self.given_classes, what)
            if given is not None:
                entries = _renumbered(entries, self._names, given, self.paths, what)
                self._names = given
            entries = entries[:count]
            self._index = self._of_part(entries, what)
        return self._index

    def _of_part(self, entries: list[_Entry], what: str) -> list[_Entry]:
        checksums = [self._open(shard).getinfo(name).CRC for shard, name, _ in entries]
        return [entries[i] for i in chosen(checksums, self.part, self.held_out, what)]

    @property
    def left_out(self) -> Counter[str]:
        return self._left_out

    def labelled(self) -> bool:
        """Return whether every ``dataset.json`` has labels."""
        return all(has_labels(self._open(shard), path) for shard, path in enumerate(self.paths))

    def _open(self, shard: int) -> zipfile.ZipFile:
        key = os.getpid(), shard  # a forked worker would share its parent's position in the file
        if key not in self._zips:
            self._zips[key] = _archive(self.paths[shard])
        return self._zips[key]

    def _list(self, shard: int) -> list[_Entry]:
        archive = self._open(shard)
        path = self.paths[shard]
        names, left_out = list_zip(archive, path)
        self._left_out += left_out
        if not self.labels:
            return [(shard, name, None) for name in names]
        labels, classes = read_labels(archive, path, names)
        if shard and classes != self._names:
            mend = "name the classes alike in every shard"
            check_same_names(classes or (), self._names or (), path, self.paths[0], mend)
        self._names = classes
        return [(shard, name, label) for name, label in zip(names, labels, strict=True)]

    @cached_property
    def _classes(self) -> tuple[tuple[str, ...] | None, np.ndarray]:
        labels = np.array([label or 0 for _, _, label in self.index], np.int64)
        return self._names, labels

    def __getitem__(self, index: int) -> dict[str, Any]:
        return _item(self._pixels(index), int(self._classes[1][index]) if self.labels else None)

    @property
    def whole(self) -> str:
        return short_hash([[info.CRC for info in self._open(s).infolist()] for s in range(len(self.paths))])

    def _numbering(self) -> list[str]:
        return [] if self.given_classes is None else [f"classes {list(self.classes or ())}"]

    def listed(self) -> int:
        return len(self.index)

    def _key(self) -> str:
        facts = [_status(path) for path in self.paths]
        stats = [(fact.st_size, fact.st_mtime_ns) for fact in facts]
        paths = [os.path.abspath(path) for path in self.paths]
        return short_hash(paths, stats, self.listed(), *facts_of(self.part, self.held_out))

    def name(self, index: int) -> str:
        """Return the path of an image in its zip."""
        return self.index[index][1]

    def where(self, index: int) -> str:
        shard, name, _ = self.index[index]
        return f"{self.paths[shard]}:{name}"

    @cached_property
    def _members(self) -> np.ndarray:
        """Places of all images, (images,) of ``MEMBER``."""
        return members((shard, self._open(shard).getinfo(name)) for shard, name, _ in self.index)

    def _opened(self, index: int) -> IO[bytes]:
        member = self._members[index]
        shard = int(member["shard"])
        if member["method"] not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            try:
                return io.BytesIO(self._open(shard).read(self.index[index][1]))
            except Exception as error:  # as in ``_open``
                raise UnreadableImage(str(error) or type(error).__name__) from error
        file = self._files.get(shard)
        if file is None:  # of two threads, both keep the file of the first
            file = self._files.setdefault(shard, open(self.paths[shard], "rb", opener=open_plain))  # noqa: SIM115
        return io.BytesIO(read_member(file.fileno(), member))


def _several(paths: str | Sequence[str]) -> list[str]:
    """Return one path or several as a list, none of them empty."""
    several = [paths] if isinstance(paths, str) else list(paths)
    if not several or not all(several):
        raise FlowlitError(f"ImageZip: paths is {paths!r}; expected a zip, or several")
    return several


def _status(path: str) -> os.stat_result:
    """Return the status of a zip.

    Raises:
        FlowlitError: if it is gone, or was never there.
    """
    check_file(path, "image zip", "fetch it again")
    return os.stat(path)


def _archive(path: str) -> zipfile.ZipFile:
    """Open a zip.

    Raises:
        FlowlitError: if it is missing, or is no zip.
    """
    if not os.path.lexists(path):
        raise FlowlitError(f"image zip {path} does not exist; check data.coupling.images.paths")
    mend = "use flowlit.data.ImageFolder" if os.path.isdir(path) else "fetch it again"
    check_file(path, "image zip", mend)
    try:
        return zipfile.ZipFile(path)
    except Exception as error:  # a damaged directory leads to errors of many kinds
        raise FlowlitError(f"image zip {path} cannot be read ({error}); fetch it again") from error


def _renumbered(
    entries: list[_Entry], names: Sequence[str] | None, given: Sequence[str], paths: Sequence[str], what: str
) -> list[_Entry]:
    """Return entries whose classes have the numbers that were given to their names.

    Args:
        entries: of all shards.
        names: of class 0, 1, …, as ``dataset.json`` has them.
        given: names of class 0, 1, … that are to be.
        paths: of the shards.
        what: the set is, for an error.
    """
    if names is not None:
        numbers = renumbered(names, given, what)
        return [(shard, name, numbers[label or 0]) for shard, name, label in entries]
    for shard, name, label in entries:
        if (label or 0) >= len(given):
            raise FlowlitError(
                f"{paths[shard]}: the class of {name} is {label}, but classes are {listed(given)}"
            )
    return entries
