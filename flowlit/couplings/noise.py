"""Noise by index: sample i is a function of (seed, i) alone, whatever the batch, worker, rank or order."""

from __future__ import annotations

import hashlib
import reprlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import FlowlitError
from ..ranges import NonNegativeInt, PositiveInt, Seed, as_whole
from ..types import Noise, Source

SEEDS = 1 << 64
"""Number of seeds of noise, which begin at 0."""

CLASSES = 1 << 31
"""Classes of a network at most."""

ROWS = 1 << 50
"""Rows of noise at most: more than any disk holds the images of, and few enough to be counted in int64."""

GENERATOR = "numpy.random.Philox(key=seed, counter=index << 64).standard_normal(float32)"
"""Recorded in every manifest; bit-equal on every CPU, thread count and device, because it always runs in
NumPy.
"""


def seeded_normal(seed: int, index: int, shape: Sequence[int]) -> Tensor:
    """Draw the noise of one sample, N(0, I) float32 of the given shape. Costs about 40 µs for 3×32×32."""
    return seeded_normals([seed], [index], shape)[0]


def seeded_normals(seeds: Sequence[int], indices: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Draw rows of noise, (B, *shape) float32, each as ``seeded_normal`` does.

    Args:
        seeds: one for each of the B indices, or one for all.
        indices: of the rows within their seeds.
        shape: of one row.
    """
    try:
        out = np.empty((len(indices), *shape), np.float32)
    except (MemoryError, ValueError) as error:
        raise FlowlitError(
            f"noise of {len(indices):,} samples of shape {tuple(shape)} does not fit into the "
            "memory; make fewer at a time"
        ) from error
    each = seeds if len(seeds) == len(indices) else [seeds[0]] * len(indices)
    stream = np.random.Generator(np.random.Philox(key=0))
    for row, seed, index in zip(out, each, indices, strict=True):
        stream.bit_generator.state = _state(seed, index)
        stream.standard_normal(dtype=np.float32, out=row)
    return torch.from_numpy(out)


def _state(seed: int, index: int) -> dict[str, Any]:
    """The state of ``Philox(key=seed, counter=index << 64)``, without reading the system's entropy first."""
    counter = np.frombuffer((index << 64).to_bytes(32, "little"), np.uint64)
    key = np.frombuffer(seed.to_bytes(16, "little"), np.uint64)
    empty = {"buffer": np.zeros(4, np.uint64), "buffer_pos": 4, "has_uint32": 0, "uinteger": 0}
    return {"bit_generator": "Philox", "state": {"counter": counter, "key": key}, **empty}


class SeededNoise(Source):
    """Noise N(0, I) and balanced labels: where generation starts, unless an image is given with it.

    Args:
        shape: of one sample, [C, H, W].
        num: how many samples.
        seed: give evaluation, couplings and recouplings different seeds, so that they share no noise.
        num_classes: 0 for none; otherwise the label of sample i is i mod num_classes, unless labels are
            given.
        labels: one class for all samples, or those of sample 0, 1, …; at least ``num``.
        only: classes among which labels are balanced; None is all of them.
    """

    standard_normal = True

    def __init__(
        self,
        shape: Sequence[PositiveInt],
        num: PositiveInt,
        seed: Seed = 0,
        num_classes: NonNegativeInt = 0,
        labels: int | Sequence[int] | None = None,
        only: Sequence[NonNegativeInt] | None = None,
    ):
        if num > ROWS or num_classes > CLASSES:
            raise FlowlitError(
                f"SeededNoise: expected num up to 2^50 and num_classes up to 2^31, found num={num}, "
                f"num_classes={num_classes}"
            )
        self.shape = tuple(shape)
        self.num = num
        self.seed = seed
        self.num_classes = num_classes
        self.labels = labels if labels is None else class_numbers(labels, num_classes, num)
        self.only = only if only is None else classes_among(only, num_classes, labels)

    def __len__(self) -> int:
        return self.num

    def first(self, num: int) -> SeededNoise:
        return SeededNoise(self.shape, num, self.seed, self.num_classes, self.labels, self.only)

    def reseeded(self, seed: int) -> SeededNoise:
        return SeededNoise(self.shape, self.num, seed, self.num_classes, self.labels, self.only)

    def relabelled(self, labels: int | Sequence[int] | None) -> SeededNoise:
        """Return the same noise with other labels; None balances them."""
        return SeededNoise(self.shape, self.num, self.seed, self.num_classes, labels)

    def identity(self) -> dict[str, Any]:
        labels = "balanced by index" if self.num_classes else "none"
        if isinstance(self.labels, int):
            labels = f"all {self.labels}"
        elif self.labels is not None:
            labels = f"given, SHA-256 {self._labels_hash(len(self.labels))}"
        elif self.only is not None:
            labels = f"balanced by index among {self.only}"
        facts = {"generator": GENERATOR, "seed": self.seed, "shape": list(self.shape)}
        return {**facts, "num_classes": self.num_classes, "labels": labels}

    def labels_of(self, counts: Sequence[int]) -> dict[str, Any] | None:
        if not self.num_classes:
            return None
        if self.labels is None and self.only is None:
            return {"num_classes": self.num_classes, "law": "balanced"}
        hashes = {str(count): self._labels_hash(count)[:16] for count in counts}
        return {"num_classes": self.num_classes, "law": "given", "sha256": hashes}

    def _labels_hash(self, count: int) -> str:
        """SHA-256 of the first labels, where they are not those of all classes."""
        given = self.only if self.labels is None else self.labels
        labels = np.resize(np.asarray(given, np.int64), count)  # repeated as often as it takes
        return hashlib.sha256(labels.tobytes()).hexdigest()

    def label_counts(self) -> dict[int, int] | None:
        """Return how many samples each class has; None without classes."""
        if not self.num_classes:
            return None
        if isinstance(self.labels, int):
            return {self.labels: self.num}
        if self.labels is not None:
            present, counts = np.unique(self.labels[: self.num], return_counts=True)
            return dict(zip(present.tolist(), counts.tolist(), strict=True))
        classes = range(self.num_classes) if self.only is None else self.only
        each, remainder = divmod(self.num, len(classes))
        occurring = classes[: min(self.num, len(classes))]
        return {label: each + (place < remainder) for place, label in enumerate(occurring)}

    def batch(self, indices: Sequence[int]) -> Noise:
        x0 = seeded_normals([self.seed], indices, self.shape)
        return Noise(torch.tensor(indices), x0, self._cond(indices))

    def _cond(self, indices: Sequence[int]) -> dict[str, Tensor]:
        if not self.num_classes:
            return {}
        if isinstance(self.labels, int):
            return {"label": torch.full((len(indices),), self.labels)}
        classes = range(self.num_classes) if self.only is None else self.only
        given = self.labels
        labels = [classes[i % len(classes)] if given is None else int(given[i]) for i in indices]
        return {"label": torch.tensor(labels)}


def classes_among(only: Sequence[int], num_classes: int, labels: Any) -> list[int]:
    """Return some of the classes from 0 to ``num_classes`` - 1.

    Raises:
        FlowlitError: for others, one that is there twice, and beside labels that are given.
    """
    if labels is not None:
        raise FlowlitError("SeededNoise: labels and only are both given; leave one of them out")
    if not only or len(set(only)) < len(only) or max(only) >= num_classes:
        end = f"from 0 to {num_classes - 1}" if num_classes else "(set num_classes)"
        raise FlowlitError(
            f"SeededNoise: only is {reprlib.repr(list(only))}; expected different classes {end}"
        )
    return list(only)


def class_numbers(labels: Any, num_classes: int, num: int) -> int | Sequence[int]:
    """Return labels that are classes: one for all samples, or one for each of ``num`` at least.

    Raises:
        FlowlitError: for other values, and too few.
    """
    if not num_classes:
        raise FlowlitError("SeededNoise: labels are given, but num_classes is 0; set data.noise.num_classes")
    single = as_whole(labels)
    given = np.asarray(labels if single is None else [single])
    if (
        given.ndim != 1
        or given.dtype.kind not in "iu"
        or bool in set(map(type, labels if single is None else ()))
    ):
        raise FlowlitError(
            f"SeededNoise: labels are {reprlib.repr(labels)}; expected a class from 0 to {num_classes - 1}, "
            "or one for each sample"
        )
    if single is None and len(given) < num:
        raise FlowlitError(
            f"SeededNoise: {len(given)} labels for {num} samples; give one for each, or one for all"
        )
    if not 0 <= given.min() <= given.max() < num_classes:
        raise FlowlitError(
            f"SeededNoise: labels are {given.min()} … {given.max()}; expected 0 … {num_classes - 1}"
        )
    return given.tolist() if single is None else single
