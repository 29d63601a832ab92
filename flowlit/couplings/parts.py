"""Shards that are still to be made, cut into what is solved at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from torch.utils.data import Dataset

from ..types import Cond, Pair
from .origins import Origin
from .store.plan import Shard


class Part(NamedTuple):
    """Some rows of a shard, solved together; an end that is None is still to be computed."""

    shard: Shard
    index: Tensor  # type: ignore[assignment]  # (B,) int64
    x0: Tensor | None  # (B, C, H, W) float32
    x1: Tensor | None  # (B, C, H, W) float32
    cond: Cond


class Solved(NamedTuple):
    """A part of a shard with both ends."""

    shard: Shard
    index: Tensor  # type: ignore[assignment]  # (B,)
    pair: Pair
    nfe: Tensor  # (B,)
    path: Tensor | None = None  # (B, K - 1, C, H, W): states before x1, where they are kept


class Parts(Dataset):
    """Shards cut into the batches that are solved at a time; item k is a ``Part``.

    The cuts do not depend on who solves them, so a shard has the same bytes for any number of processes.
    """

    def __init__(self, origin: Origin, shards: Sequence[Shard], batch_size: int):
        self.origin = origin
        self.cuts = [(s, first) for s in shards for first in range(s.first, s.first + s.rows, batch_size)]
        self.batch_size = batch_size

    def __len__(self) -> int:
        return len(self.cuts)

    def __getitem__(self, item: int) -> Part:
        shard, first = self.cuts[item]
        end = min(first + self.batch_size, shard.first + shard.rows)
        return Part(shard, *self.origin.rows(range(first, end)))
