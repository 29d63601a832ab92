"""Couplings that are to be made: what ``flowlit couple`` would do with the same options."""

from __future__ import annotations

from dataclasses import dataclass

from ...couplings.origins import From
from ...couplings.store.encoding import X0, X1

ITEM = {"float32": 4, "float16": 2, "uint8": 1, "seed": 0}


INDEX = 8


@dataclass(frozen=True)
class CoupleOptions:
    """Options of ``flowlit couple``."""

    store: str = "data/couplings/pairs"
    num: int = 10_000
    seed: int = 1
    origin: From = "noise"
    labels: str | None = None
    x0: X0 = "float16"
    x1: X1 = "float16"
    shard_size: int = 1000
    batch_size: int = 500

    def bytes_a_pair(self, entries: int, labelled: bool) -> int:
        """What a shard holds of each pair: both ends, its index, and its class if there are any.

        >>> Order().bytes_a_pair(3 * 32 * 32, False)
        12296
        """
        return entries * (ITEM[self.x0] + ITEM[self.x1]) + INDEX * (1 + labelled)
