"""Parts that folders and zips of images share."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from functools import cached_property
from typing import IO, Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import FlowlitError
from ..ranges import PositiveInt, Probability
from ..types import ImageDataset
from . import checking
from .base import _digest
from .checking import Survey
from .classes import Classes
from .decode import GREY, Decoded, OtherSize, UnreadableImage, check_colour, load
from .fitting import Fit, Style
from .listing import in_words
from .split import Part, facts_of


class ImageFiles(ImageDataset):
    """Image files, which are decoded when they are needed.

    Its length is known once each of them was decoded, so that what is broken is an error before training
    begins, and not in the middle of it.
    """

    def __init__(
        self,
        resolution: PositiveInt | None,
        channels: Literal[1, 3],
        limit: PositiveInt | None,
        labels: bool,
        background: str,
        classes: Classes,
        part: Part,
        held_out: Probability,
        fit: Fit | None,
    ):
        self.resolution = resolution
        self.channels = channels
        self.limit = limit
        self.labels = labels
        self.background = background
        self.given_classes = classes
        self.part = part
        self.held_out = held_out
        self.fit = fit
        _check(self)

    @property
    @abstractmethod
    def sources(self) -> list[str]:
        """The folder, or the zips."""

    @property
    def source(self) -> str:
        return ", ".join(self.sources)

    @property
    @abstractmethod
    def left_out(self) -> Counter[str]:
        """Counts of files of each kind that are no images."""

    @property
    @abstractmethod
    def whole(self) -> str:
        """Name of the content of the files of all parts, wherever they lie."""

    @abstractmethod
    def listed(self) -> int:
        """Return the number of images that are listed."""

    @abstractmethod
    def labelled(self) -> bool:
        """Return whether labels: true is possible."""

    @abstractmethod
    def _key(self) -> str:
        """Return a hash that changes if a file does."""

    @abstractmethod
    def where(self, index: int) -> str:
        """Return the name of an image in an error."""

    @abstractmethod
    def _opened(self, index: int) -> IO[bytes]:
        """Open an image; raise ``UnreadableImage`` or OSError."""

    @cached_property
    @abstractmethod
    def _classes(self) -> tuple[tuple[str, ...] | None, np.ndarray]:
        """Names of the classes, if they have some, and the number (images,) of that of each image."""

    @abstractmethod
    def _numbering(self) -> list[str]:
        """Return the names of the classes where the files alone do not decide their numbers."""

    @property
    def fingerprint(self) -> str:
        reading = checking.decisive(self.survey, self.background, self.fit)
        parts = (self.whole, len(self), self.resolution, self.channels, *reading)
        return _digest(type(self).__name__, *parts, *self._numbering(), *facts_of(self.part, self.held_out))

    @property
    def classes(self) -> tuple[str, ...] | None:  # type: ignore[override]
        return self._classes[0] if self.labels else None

    def class_numbers(self) -> np.ndarray:
        """Return the class of each image, (images,) int64; needs labels."""
        return self._classes[1]

    def label_counts(self) -> Counter[int] | None:
        return Counter(self._classes[1].tolist()) if self.labels else None

    @cached_property
    def survey(self) -> Survey:
        """Counts of what the images are; an error if one cannot be read, or is of another size."""
        files = (self.source, self.listed(), self._key(), self.where, self._opened)
        return checking.survey(*files, None if self.fit else self.resolution, self.fit is not None)

    @property
    def grey(self) -> bool:
        """True if no image has colours."""
        return GREY.issuperset(self.survey.modes)

    def __len__(self) -> int:
        return sum(size.count for size in self.survey.sizes)

    def summary(self) -> str:
        changes = checking.in_words(self.survey, self.background)
        left_out = in_words(self.left_out)
        notes = [f"left out: {left_out}"] * bool(left_out) + [changes] * bool(changes)
        return "; ".join([f"{self.source}: {len(self):,} images", *notes]) if notes else ""

    def facts(self) -> dict[str, Any]:
        survey = self.survey
        facts = {"formats": survey.formats, "modes": survey.modes, "changes": survey.changes}
        return facts | ({"background": self.background} if "transparent" in survey.changes else {})

    def load(self, index: int, resolution: int | None = None) -> Decoded:
        """Decode an image, of any size by default.

        Raises:
            UnreadableImage: saying why it cannot be.
        """
        try:
            with self._opened(index) as file:
                return load(file, resolution)
        except OSError as error:
            raise UnreadableImage(str(error)) from error

    def _pixels(self, index: int) -> Tensor:
        """Return an image as uint8 (C, H, W)."""
        try:
            image = self.load(index, None if self.fit else self.resolution)
        except OtherSize as error:
            width, height = error.size
            raise FlowlitError(
                f"{self.where(index)} is {width}×{height} pixels, expected {self.resolution}×"
                f"{self.resolution}; resize the images first"
            ) from error
        except UnreadableImage as error:
            name = self.where(index)
            raise FlowlitError(f"{name} is not a readable image ({error}); replace or remove it") from error
        if self.fit and self.resolution:
            pixels = Style(self.resolution, self.fit, self.background).pixels(image, self.channels)
        else:
            pixels = image.array(self.channels, self.background)
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _check(images: ImageFiles) -> None:
    """Refuse arguments that do not go together."""
    who = type(images).__name__
    check_colour(images.background)
    if images.given_classes is not None and not images.labels:
        raise FlowlitError(f"{who}: classes are given, but labels is false; set labels: true")
    if images.fit and images.resolution is None:
        raise FlowlitError(f"{who}: fit is {images.fit}; give the resolution to fit images to")
