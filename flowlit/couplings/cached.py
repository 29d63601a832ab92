"""Pairs read from a store that ``flowlit couple`` made."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..types import Coupling, FlowlitError, Pair
from .flip import random_flip
from .store import Store, check_pairs


class StoredPairs(Dataset):
    """Random access to the rows of a store; shards are mapped, not loaded, and never concatenated."""

    def __init__(self, store: Store, limit: int | None = None):
        self.store, self.manifest = store, store.manifest()
        if not self.manifest["complete"]:
            done, size = len(store.finished_shards()), self.manifest["shard_size"]
            raise FlowlitError(
                f"{store.folder} is not finished ({min(done * size, self.manifest['count'])} of {self.manifest['count']} "
                "pairs); run the `flowlit couple` command that began it again, it goes on from there"
            )
        count = self.manifest["count"]
        if limit is not None and limit < 1:
            raise FlowlitError(f"{store.folder}: limit is {limit}; expected at least 1, or none for all pairs")
        if limit is not None and limit > count:
            raise FlowlitError(
                f"{store.folder}: limit is {limit}, but it holds {count} pairs; lower the limit, or make more: "
                f"flowlit couple … --num {limit}"
            )
        self.count = limit or count
        self._shards: dict[int, dict[str, Tensor]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_shards": {}}  # a worker maps its own

    def __len__(self) -> int:
        return self.count

    def _row(self, index: int) -> tuple[dict[str, Tensor], int]:
        number, row = divmod(index, self.manifest["shard_size"])
        if number not in self._shards:
            entry = self.manifest["shards"][number]
            self._shards[number] = self.store.load_shard(entry["file"], entry["sha256"])
        return self._shards[number], row

    def __getitem__(self, index: int) -> Pair:
        shard, row = self._row(index)
        cond = {"label": shard["label"][row]} if "label" in shard else {}
        return Pair(shard["x0"][row], shard["x1"][row], cond)

    def check(self, rows: int = 1024) -> None:
        """Look at the first pairs, see ``check_pairs``."""
        shard, _ = self._row(0)
        check_pairs(shard["x0"][:rows], shard["x1"][:rows], str(self.store.folder))


class Cached(Coupling):
    """Stored pairs: reflow, annealed reflow and distillation train on them.

    Args:
        store: folder made by ``flowlit couple``.
        flip: mirror both ends of each pair with probability ½; right if the teacher was trained with flips.
        limit: use only the first pairs.
    """

    def __init__(self, store: str, flip: bool = False, limit: int | None = None):
        self.store, self.flip, self.limit = store, flip, limit

    def dataset(self) -> Dataset:
        pairs = StoredPairs(Store(self.store), self.limit)
        pairs.check()
        return pairs

    def complete(self, batch: Pair, device: torch.device) -> Pair:
        pair = Pair(batch.x0.float(), batch.x1.float(), batch.cond)
        return random_flip(pair) if self.flip else pair

    @property
    def source(self) -> str:
        return f"couplings in {self.store}"
