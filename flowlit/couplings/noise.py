"""Noise by index: sample i is a function of (seed, i) alone, whatever the batch, worker, rank or order."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from ..types import FlowlitError, Noise

GENERATOR = "numpy.random.Philox(key=seed, counter=index << 64).standard_normal(float32)"
"""Recorded in every manifest; bit-equal on every CPU, thread count and device, because it always runs in NumPy."""


def seeded_normal(seed: int, index: int, shape: Sequence[int]) -> Tensor:
    """Draw the noise of one sample, N(0, I) float32 of the given shape. Costs about 40 µs for 3×32×32."""
    stream = np.random.Generator(np.random.Philox(key=seed, counter=index << 64))
    return torch.from_numpy(stream.standard_normal(tuple(shape), dtype=np.float32))


class SeededNoise(Dataset):
    """Noise and balanced labels for evaluation and couplings: item i is a ``Noise`` row.

    Args:
        shape: of one sample, [C, H, W].
        num: how many samples.
        seed: give evaluation, couplings and recouplings different seeds, so that they share no noise.
        num_classes: 0 for none; otherwise the label of sample i is i mod num_classes.
    """

    def __init__(self, shape: Sequence[int], num: int, seed: int = 0, num_classes: int = 0):
        if seed < 0 or num < 1:
            raise FlowlitError(f"SeededNoise: expected seed >= 0 and num >= 1, found seed={seed}, num={num}")
        self.shape, self.num, self.seed, self.num_classes = tuple(shape), num, seed, num_classes

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> Noise:
        label = {"label": torch.tensor(index % self.num_classes)} if self.num_classes else {}
        return Noise(torch.tensor(index), seeded_normal(self.seed, index, self.shape), label)


class NoiseShards(Dataset):
    """Seeded noise cut into shards: item k is the list of micro-batches (``Noise``) of shard ``numbers[k]``.

    Micro-batches are the same for any number of processes, so a shard has the same bytes whoever makes it.
    """

    def __init__(self, noise: SeededNoise, shard_size: int, batch_size: int, skip: Sequence[int] = ()):
        if shard_size < 1 or batch_size < 1:
            raise FlowlitError(f"shards: expected positive sizes, found shard_size={shard_size}, batch_size={batch_size}")
        self.noise, self.shard_size, self.batch_size = noise, shard_size, batch_size
        self.numbers = sorted(set(range(math.ceil(len(noise) / shard_size))) - set(skip))

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, item: int) -> list[Noise]:
        start = self.numbers[item] * self.shard_size
        end = min(start + self.shard_size, len(self.noise))
        return [
            default_collate([self.noise[i] for i in range(first, min(first + self.batch_size, end))])
            for first in range(start, end, self.batch_size)
        ]
