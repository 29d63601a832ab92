"""Zip files of images."""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any

from ..errors import FlowlitError
from ..types import ImageDataset
from .base import _digest, _item, _limited
from .decode import decode
from .listing import zip_images


class ImageZip(ImageDataset):
    """Zip files of PNG images with ``dataset.json``, {"labels": [[name, class], …]}, as StyleGAN and EDM use
    them.

    Names are read from the archive and never used as paths on the disk.

    Args:
        paths: one zip, or several shards whose images follow each other.
        resolution, channels, limit: as for ``ImageFolder``.
        labels: put the class into ``cond``; needs ``dataset.json`` in every shard.
    """

    def __init__(
        self,
        paths: str | Sequence[str],
        resolution: int | None = None,
        channels: int = 3,
        limit: int | None = None,
        labels: bool = False,
    ):
        self.paths = [paths] if isinstance(paths, str) else list(paths)
        self.resolution = resolution
        self.channels = channels
        self.limit = limit
        self.labels = labels
        self._index: list[tuple[int, str, int | None]] | None = None
        self._zips: dict[tuple[int, int], zipfile.ZipFile] = {}  # by process and shard

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_zips": {}}  # a worker opens its own

    @property
    def index(self) -> list[tuple[int, str, int | None]]:
        """(shard, name, class) of every image."""
        if self._index is None:
            entries = [entry for shard in range(len(self.paths)) for entry in self._list(shard)]
            self._index = entries[: _limited(len(entries), self.limit, f"image zip {', '.join(self.paths)}")]
        return self._index

    def _open(self, shard: int) -> zipfile.ZipFile:
        key = os.getpid(), shard  # a forked worker would share its parent's position in the file
        if key not in self._zips:
            try:
                self._zips[key] = zipfile.ZipFile(self.paths[shard])
            except FileNotFoundError as error:
                raise FlowlitError(f"image zip {self.paths[shard]} does not exist") from error
            except (zipfile.BadZipFile, OSError) as error:
                raise FlowlitError(
                    f"image zip {self.paths[shard]} cannot be read ({error}); fetch it again"
                ) from error
        return self._zips[key]

    def _list(self, shard: int) -> list[tuple[int, str, int | None]]:
        archive = self._open(shard)
        path = self.paths[shard]
        names = zip_images(archive)
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

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> dict[str, Any]:
        shard, name, label = self.index[index]
        where = f"{self.paths[shard]}:{name}"
        try:
            content = self._open(shard).read(name)
        except (zipfile.BadZipFile, zlib.error, RuntimeError, OSError, EOFError) as error:
            raise FlowlitError(f"{where} cannot be read ({error}); fetch the zip again") from error
        return _item(decode(io.BytesIO(content), where, self.resolution, self.channels), label)

    @property
    def fingerprint(self) -> str:
        entries = [[info.CRC for info in self._open(s).infolist()] for s in range(len(self.paths))]
        return _digest("ImageZip", entries, len(self), self.resolution, self.channels)
