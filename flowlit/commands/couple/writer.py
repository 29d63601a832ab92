"""Write pairs to a store while Lightning predicts them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info

from ..._support.progress import Bar
from ..._version import __version__
from ...couplings.origins import Origin
from ...couplings.parts import Solved
from ...couplings.store.encoding import pack
from ...couplings.store.plan import Shard, plan
from ...couplings.store.text import StoredText
from ...couplings.store.text_writer import write_text
from ...couplings.store.writer import Store
from ...errors import FlowlitError
from ...types import Pair
from .options import CoupleOptions
from .verification import again, checked


class PairWriter(BasePredictionWriter):
    """Gather solved parts into shards and write each to a store, while the next one is being solved.

    Rank 0 holds the store's lock, writes the manifest and shows a bar in pairs.

    Args:
        store: where to.
        origin: where the pairs begin.
        options: their number, dtypes on disk and division into files.
        facts: who makes the pairs, for the manifest.
        remarks: further facts that may differ when the same pairs are continued.
    """

    def __init__(
        self,
        store: Store,
        origin: Origin,
        options: CoupleOptions,
        facts: dict[str, Any],
        remarks: dict[str, Any],
    ):
        super().__init__(write_interval="batch")
        self.store = store
        self.origin = origin
        self.options = options
        self.facts = facts
        self.remarks = remarks
        self._parts: list[Solved] = []
        self._pending: Future | None = None
        self._lock: AbstractContextManager[None] | None = None
        self._last: Shard | None = None
        self._again: tuple[int, float] | None = None

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        if trainer.is_global_zero:
            self._lock = self.store.writing()
            self._lock.__enter__()
            self._begin(trainer.strategy.root_device)
        trainer.strategy.barrier("store begun")
        if self.origin.prompted is not None:  # encoded once, by rank 0
            self.origin.prompted.stored = StoredText(self.store.folder, self.store.manifest())
        self._writer = ThreadPoolExecutor(1)
        bar = trainer.progress_bar_callback
        if bar is not None:
            bar.disable()
        self._missing = sum(shard.rows for shard in trainer.datamodule.missing)  # type: ignore[attr-defined]
        hidden = bar is None or not trainer.is_global_zero or not self._missing
        self._bar = Bar(total=self._missing, unit=" pairs", desc="Couplings", disable=hidden, smoothing=0.05)

    def _begin(self, device: torch.device) -> None:
        counts = self.store.counts(self.options.num)
        identity = {**identity_of_ends(self.origin, self.options, counts), **self.facts}
        self.options.check_disk(self.store, self.origin)  # first, so that what it advises is still possible
        self.store.begin(identity, counts, {**self.remarks, "flowlit": __version__})
        if self.origin.prompted is not None:
            write_text(self.store.folder, self.origin.prompted, counts, device)

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: Solved,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        pair = prediction.pair
        pair = pair._replace(cond=self.origin.stored(prediction.index, pair.cond))
        self._parts.append(prediction._replace(pair=pair))
        self._bar.update(min(len(prediction.index) * trainer.world_size, self._missing - self._bar.n))
        if sum(len(part.index) for part in self._parts) == prediction.shard.rows:
            self._wait()
            self._pending = self._writer.submit(self._write, prediction.shard, self._parts)
            self._parts = []
            self._last = prediction.shard

    def _write(self, shard: Shard, parts: list[Solved]) -> None:
        pair = Pair(
            torch.cat([part.pair.x0 for part in parts]).float().cpu(),
            torch.cat([part.pair.x1 for part in parts]).float().cpu(),
            {key: torch.cat([part.pair.cond[key] for part in parts]).cpu() for key in parts[0].pair.cond},
        )
        index, nfe = (torch.cat([getattr(part, name) for part in parts]).cpu() for name in ("index", "nfe"))
        paths = [part.path.cpu() for part in parts if part.path is not None]
        path = torch.cat(paths) if paths else None
        self.store.write_shard(
            shard, *pack(index, pair, nfe, self.origin.seed, self.options.x0, self.options.x1, path)
        )

    def _wait(self) -> None:
        """Let the last shard reach the disk; what went wrong there is raised here."""
        pending = self._pending
        self._pending = None
        if pending is not None:
            pending.result()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Keep the shard that is being written, and let others write the store."""
        try:
            with suppress(FlowlitError):
                self._wait()
        finally:
            self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.__exit__(None, None, None)
            self._lock = None

    def on_predict_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Generate a few pairs of the last shard again, while the model is still on its device."""
        self._wait()
        if trainer.is_global_zero and self._last is not None:
            self._again = again(trainer, pl_module, self.origin, self.store.folder, self._last)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Finish the store, also when every shard was there already and nothing had to be predicted."""
        self._bar.close()
        self._writer.shutdown()
        trainer.strategy.barrier("couplings")
        if trainer.is_global_zero:
            try:
                for line in self._finish(trainer, pl_module):
                    rank_zero_info(f"flowlit: {line}")
            finally:
                self._release()

    def _finish(self, trainer: pl.Trainer, predictor: Any) -> Iterator[str]:
        """Look at a store and mark it complete; yield what is to be said of it.

        What is not as it should be stays unfinished, so that the next run finds it, too.
        """
        manifest = self.store.manifest()
        if manifest["complete"]:
            yield summary(manifest, self.store, self.options)
            return
        manifest = self.store.finished()
        if self._again is None:  # an earlier run made the last shard, and was stopped or refused after it
            last = plan(manifest["counts"], manifest["shard_size"])[-1]
            self._again = again(trainer, predictor, self.origin, self.store.folder, last)
        looked = checked(self.store.folder, manifest, *self._again)
        self.store.write_manifest(manifest)
        yield from (summary(manifest, self.store, self.options), looked)


def identity_of_ends(origin: Origin, options: CoupleOptions, counts: list[int]) -> dict[str, Any]:
    """Return the facts of a store that its origin and the options decide."""
    return {
        "origin": origin.name,
        "shape": list(origin.shape),
        "x0": options.x0,
        "x1": options.x1,
        "seeds": [origin.seed],
        "shard_size": options.shard_size,
        **origin.facts(counts),
    }


def summary(manifest: dict[str, Any], store: Store, options: CoupleOptions) -> str:
    """Return a line on a finished store."""
    nfe = manifest["nfe"]
    x0 = manifest["rounding"]["x0"]
    x1 = manifest["rounding"]["x1"]
    states = f" of {len(manifest['times'])} states" if "times" in manifest else ""
    return (
        f"{manifest['count']:,} pairs{states} in {store.folder}; NFE {nfe['mean']:.1f} on average, "
        f"{nfe['max']} at most; stored as {options.x0} and {options.x1}, which rounds x0 by "
        f"{x0['rms']:.2g} and x1 by {x1['rms']:.2g} (rms), {x1['max']:.2g} at most"
    )
