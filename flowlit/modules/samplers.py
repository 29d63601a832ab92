"""Rows of the data that a step, a rank and a worker read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from typing import cast

import numpy as np
from torch.utils.data import Dataset, DistributedSampler

from .._support.permutation import mix, shuffled
from ..errors import FlowlitError


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


def check_enough(rows: int, world: int) -> None:
    """Refuse fewer samples than processes, some of which would wait for the others in vain.

    Raises:
        FlowlitError: saying how many of both there are.
    """
    if rows < world:
        raise FlowlitError(f"{rows} samples cannot be divided among {world} processes; use fewer devices")


def missing_rows(num: int, measured: list[np.ndarray], required: int) -> np.ndarray:
    """Return which of num samples to generate: the first ``required``, and those that any has not measured.

    Args:
        measured: indices (N,) int64 that each callback has from an earlier run.

    >>> missing_rows(6, [np.array([0, 1, 2, 4]), np.array([2, 3, 4])], required=1).tolist()
    [0, 1, 3, 5]
    """
    by_all = reduce(np.intersect1d, measured)
    first = np.arange(min(required, num))
    return np.concatenate([first, np.setdiff1d(np.arange(len(first), num), by_all)])
