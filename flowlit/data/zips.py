"""Zip files of images."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections import Counter
from collections.abc import Sequence
from typing import IO, Any

from .._support.files import check_file, short_hash
from ..errors import FlowlitError
from .base import _digest, _item, _limited
from .decode import UnreadableImage
from .files import ImageFiles
from .listing import in_words, list_zip


class ImageZip(ImageFiles):
    """Zip files of images with ``dataset.json``, {"labels": [[name, class], …]}, as StyleGAN and EDM use
    them.

    Names are read from the archive and never used as paths on the disk. What is left out, and that all images
    are decoded once before they are used, is as for ``ImageFolder``.

    Args:
        paths: one zip, or several shards whose images follow each other.
        resolution, channels, limit, background: as for ``ImageFolder``.
        labels: put the class into ``cond``; needs ``dataset.json`` in every shard.
    """

    def __init__(
        self,
        paths: str | Sequence[str],
        resolution: int | None = None,
        channels: int = 3,
        limit: int | None = None,
        labels: bool = False,
        background: str = "white",
    ):
        super().__init__(resolution, channels, limit, labels, background)
        self.paths = [paths] if isinstance(paths, str) else list(paths)
        self._index: list[tuple[int, str, int | None]] | None = None
        self._left_out: Counter[str] = Counter()
        self._zips: dict[tuple[int, int], zipfile.ZipFile] = {}  # by process and shard

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_zips": {}}  # a worker opens its own

    @property
    def source(self) -> str:
        return ", ".join(self.paths)

    @property
    def index(self) -> list[tuple[int, str, int | None]]:
        """(shard, name, class) of every image."""
        if self._index is None:
            entries = [entry for shard in range(len(self.paths)) for entry in self._list(shard)]
            count = _limited(len(entries), self.limit, f"image zip {self.source}", in_words(self._left_out))
            self._index = entries[:count]
        return self._index

    @property
    def left_out(self) -> Counter[str]:
        return self._left_out

    def _open(self, shard: int) -> zipfile.ZipFile:
        key = os.getpid(), shard  # a forked worker would share its parent's position in the file
        if key not in self._zips:
            path = self.paths[shard]
            check_file(path, "image zip", "fetch it again")
            try:
                self._zips[key] = zipfile.ZipFile(path)
            except Exception as error:  # a damaged directory leads to errors of many kinds
                raise FlowlitError(f"image zip {path} cannot be read ({error}); fetch it again") from error
        return self._zips[key]

    def _list(self, shard: int) -> list[tuple[int, str, int | None]]:
        archive = self._open(shard)
        path = self.paths[shard]
        names, left_out = list_zip(archive, path)
        self._left_out += left_out
        if not self.labels:
            return [(shard, name, None) for name in names]
        try:
            labels = dict(json.loads(archive.read("dataset.json"))["labels"])
            return [(shard, name, int(labels[name])) for name in names]
        except (KeyError, TypeError, ValueError) as error:
            raise FlowlitError(
                f"{path}: labels asked for, but dataset.json is missing or has no label for every image "
                f"({error}); set labels: false or repair it"
            ) from error

    def __getitem__(self, index: int) -> dict[str, Any]:
        return _item(self._pixels(index), self.index[index][2])

    @property
    def fingerprint(self) -> str:
        entries = [[info.CRC for info in self._open(s).infolist()] for s in range(len(self.paths))]
        return _digest("ImageZip", entries, len(self), self.resolution, self.channels, *self._reading())

    def _count(self) -> int:
        return len(self.index)

    def _key(self) -> str:
        facts = [os.stat(path) for path in self.paths]
        stats = [(fact.st_size, fact.st_mtime_ns) for fact in facts]
        return short_hash([os.path.abspath(path) for path in self.paths], stats, self._count())

    def _where(self, index: int) -> str:
        shard, name, _ = self.index[index]
        return f"{self.paths[shard]}:{name}"

    def _opened(self, index: int) -> IO[bytes]:
        shard, name, _ = self.index[index]
        archive = self._open(shard)
        try:
            return io.BytesIO(archive.read(name))
        except Exception as error:  # as in ``_open``
            raise UnreadableImage(str(error) or type(error).__name__) from error
