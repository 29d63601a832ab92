"""Large images with small ones of them, from files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from ..errors import FlowlitError
from ..types import ImageDataset
from .base import _digest
from .folders import ImageFolder
from .zips import ImageZip

Files = ImageFolder | ImageZip

_NAMED = 3
"""Names that an error gives."""


class PairedImages(ImageDataset):
    """Images with their small copies from files: item i has "small" (C, h, w) uint8, too.

    For published sets of super-resolution, such as DIV2K or RealSR, whose small images are no degradation
    that is known. ``SuperResolution`` and ``DegradedImages`` take them instead of degrading; of their
    ``degradation`` the scale and the way back to the size of x1 remain. Files are paired by their paths in
    the two folders or zips, without endings and suffixes. Images of many sizes are cut first, both sets
    alike: ``flowlit images --fit patches``.

    Args:
        images: ``ImageFolder`` or ``ImageZip``.
        small: likewise, of all parts: those of ``images`` are found in it.
        endings: of the names of images and of small ones, e.g. ["", "x4"] for 0001.png and 0001x4.png.

    Raises:
        FlowlitError: at the first access, naming files that have no partner, and for sizes that do not fit.
    """

    def __init__(self, images: Files, small: Files, endings: Sequence[str] = ("", "")):
        if len(endings) != 2:
            raise FlowlitError(f"PairedImages: endings is {list(endings)}; expected two, as ['', 'x4']")
        if small.part != "all":
            raise FlowlitError(
                f"PairedImages: part of the small images is {small.part}; expected all, of which those of "
                "images are taken"
            )
        self.images = images
        self.small = small
        self.endings = tuple(endings)

    @property
    def part(self) -> str:
        """Part of the images."""
        return self.images.part

    @cached_property
    def rows(self) -> list[int]:
        """Index of the small copy of each image."""
        large = _places(self.images, self.endings[0])
        small = _places(self.small, self.endings[1])
        lacking = [name for name in large if name not in small]
        alone = [name for name in small if name not in large] if self.part == "all" else []
        if lacking or alone:
            where = self.images.source, self.small.source
            parts = [_without(lacking, *where), _without(alone, *where[::-1])]
            raise FlowlitError(
                f"PairedImages: {'; '.join(filter(None, parts))}; expected the same names in both, but for "
                f"endings {list(self.endings)}"
            )
        return [small[name] for name in large]

    def __len__(self) -> int:
        len(self.small)
        count = len(self.images)
        self.rows  # noqa: B018 - so that what has no partner is an error before training
        return count

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.images[index], "small": self.small[self.rows[index]]["x1"]}

    @property
    def classes(self) -> tuple[str, ...] | None:  # type: ignore[override]
        return self.images.classes

    def label_counts(self) -> Mapping[int, int] | None:
        return self.images.label_counts()

    def class_numbers(self) -> Any:
        """Return the class of each image, (images,) int64."""
        return self.images.class_numbers()

    @property
    def fingerprint(self) -> str:
        return _digest(type(self).__name__, self.images.fingerprint, self.small.fingerprint, *self.endings)

    def summary(self) -> str:
        return "; ".join(filter(None, (self.images.summary(), self.small.summary())))

    def facts(self) -> dict[str, Any]:
        return self.images.facts()


def _places(files: Files, ending: str) -> dict[str, int]:
    """Return the index of each image by its name without ending and suffix."""
    places: dict[str, int] = {}
    for index in range(files.listed()):
        name = files.name(index)
        parts = PurePosixPath(name).with_suffix("").parts
        key = "/".join(part.removesuffix(ending) for part in parts)
        if key in places:
            other = files.name(places[key])
            raise FlowlitError(f"PairedImages: {files.source} has {other} and {name}, both for {key}")
        places[key] = index
    return places


def _without(names: Sequence[str], where: str, other: str) -> str:
    """Return a line on images that have no partner; empty if there are none."""
    if not names:
        return ""
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more} of {where} {'is' if len(names) == 1 else 'are'} not in {other}"
