"""Folders and zip files of images."""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from ..errors import FlowlitError
from ..types import ImageDataset
from .base import _SUFFIXES, _digest, _item, _limited


def _read_image(file: Any, name: str, resolution: int | None, channels: int) -> Tensor:
    """Decode one image to uint8 (C, H, W).

    Raises:
        FlowlitError: if it is broken or of another resolution.
    """
    try:
        with Image.open(file) as image:
            array = np.array(image.convert("L" if channels == 1 else "RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise FlowlitError(f"{name} is not a readable image ({error}); replace or remove it") from error
    if resolution is not None and array.shape[:2] != (resolution, resolution):
        height, width = array.shape[:2]
        raise FlowlitError(
            f"{name} is {width}×{height} pixels, expected {resolution}×{resolution}; resize the images first"
        )
    return torch.from_numpy(array.reshape(*array.shape[:2], channels)).permute(2, 0, 1).contiguous()


class ImageFolder(ImageDataset):
    """A folder of images: flat, or one sub-folder a class (labels are the sub-folders in alphabetical order).

    Args:
        root: the folder; searched through all its sub-folders.
        resolution: expected width and height in pixels; None leaves it to the first image that does not fit
            the network.
        channels: 3 (RGB) or 1 (grey); images are converted.
        limit: use only the first images, in alphabetical order.
        labels: put the class into ``cond``; needs sub-folders.
    """

    def __init__(
        self,
        root: str,
        resolution: int | None = None,
        channels: int = 3,
        limit: int | None = None,
        labels: bool = False,
    ):
        self.root = root
        self.resolution = resolution
        self.channels = channels
        self.limit = limit
        self.labels = labels
        self._files: list[Path] | None = None

    @property
    def files(self) -> list[Path]:
        if self._files is None:
            root = Path(self.root)
            if not root.is_dir():
                raise FlowlitError(f"image folder {root} does not exist; check data.coupling.images.root")
            paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in _SUFFIXES)
            self._files = paths[: _limited(len(paths), self.limit, f"image folder {root}")]
            if self.labels and any(len(path.relative_to(root).parts) < 2 for path in self._files):
                raise FlowlitError(
                    f"image folder {root}: labels need one sub-folder a class, but images lie at its top"
                )
            for path in tqdm(
                self._files, desc="Checking images", leave=False, disable=len(self._files) < 10_000
            ):
                self._verify(path)
        return self._files

    def _verify(self, path: Path) -> None:
        """Read every header, so that a broken file is an error before training begins, not in the middle."""
        try:
            with Image.open(path) as image:
                image.verify()
        except Exception as error:
            raise FlowlitError(f"{path} is not a readable image ({error}); replace or remove it") from error

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = self.files[index]
        label = self._classes.index(path.relative_to(self.root).parts[0]) if self.labels else None
        return _item(_read_image(path, str(path), self.resolution, self.channels), label)

    @cached_property
    def _classes(self) -> list[str]:
        return sorted({path.relative_to(self.root).parts[0] for path in self.files})

    @property
    def fingerprint(self) -> str:
        stats = [
            (path.relative_to(self.root), path.stat().st_size, path.stat().st_mtime_ns) for path in self.files
        ]
        return _digest("ImageFolder", stats, self.resolution, self.channels)


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
        names = sorted(n for n in archive.namelist() if Path(n).suffix.lower() in _SUFFIXES)
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
        return _item(_read_image(io.BytesIO(content), where, self.resolution, self.channels), label)

    @property
    def fingerprint(self) -> str:
        entries = [[info.CRC for info in self._open(s).infolist()] for s in range(len(self.paths))]
        return _digest("ImageZip", entries, len(self), self.resolution, self.channels)
