"""The options of ``flowlit couple``, for the command, for doctor and for the writer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..._support.files import check_room
from ...couplings.origins import From, Origin
from ...couplings.store.encoding import X0, X1, pair_bytes
from ...couplings.store.plan import plan
from ...couplings.store.text_writer import text_bytes
from ...couplings.store.writer import Store
from ...ranges import Checked, Float, PositiveInt, Seed


@dataclass(frozen=True)
class CoupleOptions(Checked):
    """Pairs to make.

    Args:
        store: folder for shards and manifest.
        num: pairs in all.
        seed: of their noise; differs from that of every other store and of evaluation.
        origin: start from noise, from data (the solver runs in reverse), or put both together at random.
        labels: file with the class of pair 0, 1, … (.npy, or text with one number a line); balanced if
            not given.
        x0: how noise is stored; "seed" stores none, and draws it again when read.
        x1: how data is stored; "uint8" has 256 levels in [-1, 1].
        shard_size: pairs per file.
        batch_size: pairs solved at a time.
        times: keep the solver's states at these of its times, too, stored as x1; the last is 1. Without,
            pairs alone.
    """

    store: str = "data/couplings/pairs"
    num: PositiveInt = 10_000
    seed: Seed = 1
    origin: From = "noise"
    labels: str | None = None
    x0: X0 = "float16"
    x1: X1 = "float16"
    shard_size: PositiveInt = 1000
    batch_size: PositiveInt = 500
    times: list[Float] | None = None

    @classmethod
    def if_given(cls, **options: Any) -> CoupleOptions | None:
        """Return the options that are not None, with defaults for the others; None if all are None."""
        given = {name: value for name, value in options.items() if value is not None}
        return cls(**given) if given else None

    def missing(self, store: Store) -> int:
        """Count the pairs that a store lacks."""
        shards = plan(store.counts(self.num), self.shard_size)
        return sum(shard.rows for shard in shards if not (store.folder / shard.file).exists())

    def check_disk(self, store: Store, origin: Origin) -> None:
        """Refuse before the first batch if the disk cannot hold the missing pairs.

        Raises:
            FlowlitError: saying how many bytes they need.
        """
        missing = self.missing(store)
        smaller = "make fewer (--num), store them smaller (--x0 seed --x1 float16)"
        mend = f"{smaller}, or choose another disk (--store)"
        needed = missing * self.pair_bytes(origin)
        if origin.prompted is not None and missing:
            texts = min(self.num, len(origin.prompted.prompts))
            needed += text_bytes(texts, origin.prompted.encoder)
        check_room(store.folder, needed, f"{missing} pairs", mend)

    def pair_bytes(self, origin: Origin) -> int:
        """Return the bytes of a pair on disk."""
        index, _, _, cond = origin.rows([0])
        conditions = sum(value.nbytes for value in origin.stored(index, cond).values())
        return pair_bytes(origin.shape, self.x0, self.x1, conditions, len(self.times or [1]))
