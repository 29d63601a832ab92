"""Couplings that are to be made: what ``flowlit couple`` would do with the same options."""

from __future__ import annotations

from dataclasses import dataclass

from ...couplings.origins import From
from ...couplings.store.encoding import X0, X1


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
