"""Noise by index: sample i is a function of (seed, i) alone, whatever the batch, worker, rank or order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import FlowlitError
from ..types import Noise, Source

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
    out = np.empty((len(indices), *shape), np.float32)
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
        labels: of sample 0, 1, …; at least ``num``.
    """

    standard_normal = True

    def __init__(
        self,
        shape: Sequence[int],
        num: int,
        seed: int = 0,
        num_classes: int = 0,
        labels: Sequence[int] | None = None,
    ):
        if not 0 <= seed < 1 << 64 or num < 1:
            raise FlowlitError(
                f"SeededNoise: expected seed >= 0 (and < 2^64) and num >= 1, found seed={seed}, num={num}"
            )
        if labels is not None and not num_classes:
            raise FlowlitError(
                "SeededNoise: labels are given, but num_classes is 0; set data.noise.num_classes"
            )
        if labels is not None and len(labels) < num:
            raise FlowlitError(f"SeededNoise: {len(labels)} labels for {num} samples; give one for each")
        if labels is not None and not 0 <= min(labels) <= max(labels) < num_classes:
            raise FlowlitError(
                f"SeededNoise: labels are {min(labels)} … {max(labels)}; expected 0 … {num_classes - 1}"
            )
        self.shape = tuple(shape)
        self.num = num
        self.seed = seed
        self.num_classes = num_classes
        self.labels = labels

    def __len__(self) -> int:
        return self.num

    def first(self, num: int) -> SeededNoise:
        return SeededNoise(self.shape, num, self.seed, self.num_classes, self.labels)

    def reseeded(self, seed: int) -> SeededNoise:
        return SeededNoise(self.shape, self.num, seed, self.num_classes, self.labels)

    def relabelled(self, labels: Sequence[int] | None) -> SeededNoise:
        """Return the same noise with other labels; None balances them."""
        return SeededNoise(self.shape, self.num, self.seed, self.num_classes, labels)

    def identity(self) -> dict[str, Any]:
        labels = "balanced by index" if self.num_classes else "none"
        if self.labels is not None:
            labels = f"given, SHA-256 {self._labels_hash(None)}"
        facts = {"generator": GENERATOR, "seed": self.seed, "shape": list(self.shape)}
        return {**facts, "num_classes": self.num_classes, "labels": labels}

    def labels_of(self, counts: Sequence[int]) -> dict[str, Any] | None:
        if not self.num_classes:
            return None
        if self.labels is None:
            return {"num_classes": self.num_classes, "law": "balanced"}
        hashes = {str(count): self._labels_hash(count)[:16] for count in counts}
        return {"num_classes": self.num_classes, "law": "given", "sha256": hashes}

    def _labels_hash(self, count: int | None) -> str:
        """SHA-256 of the first labels that were given; None: of all."""
        labels = np.asarray(self.labels, np.int64)
        return hashlib.sha256(labels[:count].tobytes()).hexdigest()

    def batch(self, indices: Sequence[int]) -> Noise:
        x0 = seeded_normals([self.seed], indices, self.shape)
        return Noise(torch.tensor(indices), x0, self._cond(indices))

    def _cond(self, indices: Sequence[int]) -> dict[str, Tensor]:
        if not self.num_classes:
            return {}
        labels = [i % self.num_classes if self.labels is None else int(self.labels[i]) for i in indices]
        return {"label": torch.tensor(labels)}
