"""Folders of images."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from ..errors import FlowlitError
from ..types import ImageDataset
from .base import _digest, _item, _limited
from .decode import decode
from .listing import folder_images


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
            paths = folder_images(root)
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
        return _item(decode(path, str(path), self.resolution, self.channels), label)

    @cached_property
    def _classes(self) -> list[str]:
        return sorted({path.relative_to(self.root).parts[0] for path in self.files})

    @property
    def fingerprint(self) -> str:
        stats = [
            (path.relative_to(self.root), path.stat().st_size, path.stat().st_mtime_ns) for path in self.files
        ]
        return _digest("ImageFolder", stats, self.resolution, self.channels)
