"""Which rows, in which order: functions of (seed, place) that take constant memory, however many rows there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import cast

import numpy as np
from torch.utils.data import Dataset, DistributedSampler


def mix(*numbers: int) -> int:
    """Hash integers to 32 bits; a bijection in the last one, so that no two steps share their draws."""
    h = 0
    for number in numbers:
        h = (h + number + 0x9E3779B9) & 0xFFFFFFFF
        h = ((h ^ (h >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
        h = ((h ^ (h >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
        h ^= h >> 16
    return h


def shuffled(places: np.ndarray, rows: int, key: int, rounds: int = 8) -> np.ndarray:
    """Look up places in a random permutation of 0 … rows - 1, which is computed, not stored.

    A Feistel network permutes the next power of four; walking on until a place lands among the rows permutes these (Black
    and Rogaway, Ciphers with Arbitrary Finite Domains, 2002, section 3).

    >>> sorted(shuffled(np.arange(10), 10, key=3).tolist())
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    half = np.uint64(max(1, ((rows - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = [np.uint64(mix(key, i) << 32 | mix(key, i, 1)) for i in range(rounds)]

    def permute(x: np.ndarray) -> np.ndarray:
        left, right = x >> half, x & mask
        for k in keys:
            left, right = right, left ^ (_hash(right ^ k) & mask)
        return left << half | right

    x = permute(places.astype(np.uint64))
    while (outside := x >= rows).any():
        x[outside] = permute(x[outside])
    return x.astype(np.int64)


def _hash(x: np.ndarray) -> np.ndarray:
    """Scramble 64 bits (the finaliser of SplitMix64; multiplication wraps)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class IndexStream(DistributedSampler):
    """Rows in a fresh permutation for each pass, as one stream whose place is known: rank r takes places r, r + world, ….

    The row at place p depends on (seed, p) alone, so a run resumed at any step sees what it would have seen. ``length`` rows
    per rank are what Lightning calls an epoch; each begins where ``start`` then says.
    """

    BLOCK = 1024

    def __init__(self, rows: int, length: int, seed: int, rank: int = 0, world: int = 1, start: Callable[[], int] = lambda: 0):
        super().__init__(cast(Dataset, range(rows)), num_replicas=world, rank=rank)
        self.rows, self.length, self.stream_seed, self.start = rows, length, seed, start

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        place, stride = self.start() * self.num_replicas + self.rank, self.num_replicas
        while True:
            number, row = divmod(place, self.rows)
            block = np.arange(row, min(self.rows, row + stride * self.BLOCK), stride)
            yield from shuffled(block, self.rows, mix(self.stream_seed, number)).tolist()
            place += len(block) * stride


class Stripe(DistributedSampler):
    """Every world-th of some rows, in their order; none twice and none left out."""

    def __init__(self, rows: Sequence[int], rank: int = 0, world: int = 1):
        super().__init__(cast(Dataset, rows), num_replicas=world, rank=rank)
        self.rows = rows[rank::world]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[int]:
        return map(int, self.rows)
