"""Some classes of a set of images, which keep their numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ..errors import FlowlitError
from ..ranges import NonNegativeInt
from ..types import ImageDataset
from .base import _digest
from .classes import rows_of_classes


class OfClasses(ImageDataset):
    """The images of some classes of a set: for one of several students (``flowlit.networks.Router``).

    Classes keep their numbers and names. Generate the same ones: ``only`` of ``SeededNoise``.

    Args:
        images: with labels.
        only: numbers of the classes to take.
    """

    def __init__(self, images: ImageDataset, only: Sequence[NonNegativeInt]):
        self.images = images
        self.only = list(only)

    @cached_property
    def rows(self) -> np.ndarray:
        """Index in the whole set of each image, (images,)."""
        return rows_of_classes([self._labels()], self.only, type(self.images).__name__)

    def _labels(self) -> np.ndarray:
        numbers = getattr(self.images, "class_numbers", None)
        if callable(numbers) and self.images.label_counts() is not None:
            return numbers()
        conditions = (self.images[i]["cond"] for i in range(len(self.images)))
        labels = [int(cond["label"]) if "label" in cond else None for cond in conditions]
        if None in labels:
            raise FlowlitError(f"OfClasses: {type(self.images).__name__} has no labels; set labels: true")
        return np.array(labels, np.int64)

    def class_numbers(self) -> np.ndarray:
        """Return the class of each image, (images,) int64."""
        return self._labels()[self.rows]

    @property
    def classes(self) -> tuple[str, ...] | None:  # type: ignore[override]
        return self.images.classes

    def label_counts(self) -> Counter[int]:
        return Counter(self.class_numbers().tolist())

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.images[int(self.rows[index])]

    @property
    def fingerprint(self) -> str:
        return _digest(type(self).__name__, self.images.fingerprint, *sorted(self.only))

    @property
    def part(self) -> str:
        """Part of the whole set, for provenance."""
        outer = getattr(self.images, "part", None)
        own = f"classes {', '.join(map(str, sorted(self.only)))}"
        return own if outer in (None, "all") else f"{outer}, {own}"

    def summary(self) -> str:
        return self.images.summary()

    def facts(self) -> dict[str, Any]:
        return self.images.facts()
