"""Rows cut into shards."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from ...errors import FlowlitError

MOST_SHARDS = 100_000
"""Files of a store, at most: a manifest lists each."""


class Shard(NamedTuple):
    """Rows first … first + rows - 1 of a store, which are its file number ``number``."""

    number: int
    first: int
    rows: int

    @property
    def file(self) -> str:
        return f"{self.number:05d}.safetensors"


def plan(counts: Sequence[int], shard_size: int) -> list[Shard]:
    """Cut rows into shards. A store that grew (``counts`` after each growth) keeps the shards that it had.

    >>> [shard.rows for shard in plan([5, 12], 3)]
    [3, 2, 3, 3, 1]

    Raises:
        FlowlitError: if they are more than ``MOST_SHARDS``.
    """
    intervals = list(itertools.pairwise([0, *counts]))
    number = sum(-(-(end - begin) // shard_size) for begin, end in intervals)
    if number > MOST_SHARDS:
        raise FlowlitError(
            f"{counts[-1]:,} pairs are {number:,} shards of {shard_size:,}; expected at most "
            f"{MOST_SHARDS:,}: raise --shard_size"
        )
    cuts = [(first, end) for begin, end in intervals for first in range(begin, end, shard_size)]
    return [Shard(i, first, min(shard_size, end - first)) for i, (first, end) in enumerate(cuts)]
