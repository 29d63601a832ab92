"""Which rows of the data a step, a rank and a worker read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import cast

import numpy as np
from torch.utils.data import Dataset, DistributedSampler

from .._support.permutation import mix, shuffled


class ShuffledSampler(DistributedSampler):
    """Rows in a fresh permutation for each pass, as one stream whose place is known: rank r takes places r, r
    + world, ….

    The row at place p depends on (seed, p) alone, so a run resumed at any step sees what it would have seen.
    ``length`` rows per rank are what Lightning calls an epoch; each begins where ``start`` then says.
    """

    BLOCK = 1024

    def __init__(
        self,
        rows: int,
        length: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        start: Callable[[], int] = lambda: 0,
    ):
        super().__init__(cast(Dataset, range(rows)), num_replicas=world, rank=rank)
        self.rows = rows
        self.length = length
        self.stream_seed = seed
        self.start = start

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        place = self.start() * self.num_replicas + self.rank
        stride = self.num_replicas
        while True:
            number, row = divmod(place, self.rows)
            block = np.arange(row, min(self.rows, row + stride * self.BLOCK), stride)
            yield from shuffled(block, self.rows, mix(self.stream_seed, number)).tolist()
            place += len(block) * stride


class StridedSampler(DistributedSampler):
    """Every world-th of some rows, in their order; none twice and none left out."""

    def __init__(self, rows: Sequence[int], rank: int = 0, world: int = 1):
        super().__init__(cast(Dataset, rows), num_replicas=world, rank=rank)
        self.rows = rows[rank::world]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[int]:
        return map(int, self.rows)
