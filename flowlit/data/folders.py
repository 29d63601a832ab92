"""Folders of images."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np

from .._support.files import open_plain
from ..errors import FlowlitError
from ..ranges import PositiveInt, Probability
from .base import _item, _limited
from .checksums import checksums, content_of
from .classes import Classes, classes_in, renumbered, spelt
from .files import ImageFiles
from .fitting import Fit
from .labels import names_to_take
from .listing import Entry, Paths, in_words, list_folder
from .split import Part, chosen


class _Files(NamedTuple):
    """Paths of images, (images, 2) int64 of their bytes and nanoseconds of change."""

    paths: Paths
    stats: np.ndarray

    @classmethod
    def of(cls, root: Path, entries: Sequence[Entry]) -> _Files:
        stats = np.array([(entry.size, entry.mtime_ns) for entry in entries], np.int64)
        return cls(Paths(root, (entry.name for entry in entries)), stats)

    def of_part(self, indices: Sequence[int]) -> _Files:
        names = (self.paths.name(i) for i in indices)
        return _Files(Paths(self.paths.root, names), self.stats[list(indices)])


class ImageFolder(ImageFiles):
    """A folder of images: flat, or one sub-folder a class.

    Labels number the sub-folders, empty ones included: in alphabetical order, or by their numbers if all have
    numeric names.

    Links are followed. Hidden files, and files of other kinds than PNG, JPEG, BMP and WebP, are left out and
    counted. All images are decoded once before they are used.

    Args:
        root: the folder; searched through all its sub-folders.
        resolution: expected width and height in pixels; None takes any that all images share.
        channels: 3 (RGB) or 1 (grey); images are converted.
        limit: use only the first images, in alphabetical order.
        labels: put the class into ``cond``; needs sub-folders.
        background: colour behind transparent pixels, by its name or as "#rrggbb".
        classes: names of class 0, 1, …, of which every sub-folder is one; or a folder or zip whose classes
            these are, so that two sets have the same numbers.
        part: "train" or "held_out", chosen by the content of each file, so that it stays where it is when
            others are added.
        held_out: share of the images that are held out.
        fit: "crop" or "pad" takes images of any size, and makes squares of ``resolution`` of them each time
            that they are read, as ``flowlit images`` does once; that is faster for large images.
    """

    def __init__(
        self,
        root: str,
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
        self.root = root

    @property
    def sources(self) -> list[str]:
        return [self.root]

    @cached_property
    def _whole(self) -> tuple[_Files, Counter[str]]:
        """Files of all parts, and what was left out."""
        root = Path(self.root)
        what = f"image folder {root}"
        if not self.root:
            raise FlowlitError("ImageFolder: root is ''; expected a folder")
        if os.path.isfile(root):
            raise FlowlitError(f"{what} is a file, expected a folder; for a zip use flowlit.data.ImageZip")
        if not os.path.isdir(root):
            raise FlowlitError(f"{what} does not exist; check data.coupling.images.root")
        entries, left_out = list_folder(root)
        entries = entries[: _limited(len(entries), self.limit, what, in_words(left_out))]
        if self.labels and any("/" not in entry.name for entry in entries):
            raise FlowlitError(f"{what}: labels need one sub-folder a class, but images lie at its top")
        return _Files.of(root, entries), left_out

    @cached_property
    def _listed(self) -> _Files:
        files = self._whole[0]
        if self.part == "all":
            return files
        what = f"image folder {self.root}"
        return files.of_part(chosen(self._checksums.tolist(), self.part, self.held_out, what))

    @cached_property
    def _checksums(self) -> np.ndarray:
        """Checksums of the files of all parts, which are read once."""
        return checksums(*self._whole[0])

    @property
    def files(self) -> Paths:
        """Paths of the images."""
        return self._listed.paths

    @property
    def left_out(self) -> Counter[str]:
        return self._whole[1]

    def labelled(self) -> bool:
        """Return whether all images lie in sub-folders."""
        return all("/" in self.files.name(i) for i in range(len(self.files)))

    def __getitem__(self, index: int) -> dict[str, Any]:
        return _item(self._pixels(index), int(self._classes[1][index]) if self.labels else None)

    @cached_property
    def _classes(self) -> tuple[tuple[str, ...], np.ndarray]:
        where = f"image folder {self.root}"
        names = classes_in(self.root, where)
        given = names_to_take(self.given_classes, where)
        if given is not None:
            renumbered(names, given, where)
            names = given
        folders = [self.files.name(i).split("/")[0] for i in range(len(self.files))]
        numbers = {folder: names.index(spelt(folder)) for folder in set(folders)}
        return names, np.array([numbers[folder] for folder in folders], np.int64)

    def _numbering(self) -> list[str]:
        if not self.labels:
            return []
        names, labels = self._classes
        used = {names[label] for label in np.unique(labels)}
        return [] if list(names) == sorted(used) else [f"classes {list(names)}"]

    @cached_property
    def whole(self) -> str:
        return content_of(*self._whole[0], self._checksums)

    def listed(self) -> int:
        return len(self.files)

    def _key(self) -> str:
        return hashlib.sha256(self.files.digest() + self._listed.stats.tobytes()).hexdigest()[:32]

    def name(self, index: int) -> str:
        """Return the path of an image in the folder."""
        return self.files.name(index).encode(errors="backslashreplace").decode()

    def where(self, index: int) -> str:
        return str(self.files[index]).encode(errors="backslashreplace").decode()  # not all names are UTF-8

    def _opened(self, index: int) -> IO[bytes]:
        return open(self.files.place(index), "rb", opener=open_plain)
