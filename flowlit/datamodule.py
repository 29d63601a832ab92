"""The data of every stage: pairs of a coupling for training, seeded noise for everything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from functools import cached_property, reduce
from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler, default_collate

from .couplings.noise import SeededNoise
from .couplings.origins import Origin, Parts
from .couplings.store import Store
from .manifest import Shard
from .streams import IndexStream, Stripe, mix
from .types import Coupling, FlowlitError, Images


def collate(rows: Any) -> Any:
    """Stack rows, unless the data set read the batch at once (``__getitems__``)."""
    return default_collate(rows) if isinstance(rows, list) else rows


class FlowDataModule(pl.LightningDataModule):
    """Pairs for ``fit``; seeded noise (or held-out images) for ``validate``, ``test`` and ``predict``.

    Every random draw of a training step (noise, times, flips, dropout) follows from (seed, step, rank): resuming is exact.

    Args:
        coupling: what to train on; not needed to validate, test, predict or couple.
        batch_size: of one optimizer step over all devices; divided among devices and accumulated batches.
        noise: from which validation, testing and prediction start; its shape is also that of ``flowlit couple``.
        noise_batch_size: samples generated at a time on each device; no sample depends on it.
        test_num: samples of ``test``, from the same noise; ``noise.num`` are those of everything else.
        validation: labelled images instead of noise, for classifiers.
        num_workers: processes that read data; 0 is best for stored pairs.
        seed: of data order and all draws of the training steps.
    """

    def __init__(
        self,
        coupling: Coupling | None = None,
        batch_size: int = 128,
        noise: SeededNoise | None = None,
        noise_batch_size: int = 256,
        test_num: int = 50_000,
        validation: Images | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ):
        super().__init__()
        self.coupling, self.batch_size = coupling, batch_size
        self.noise, self.noise_batch_size, self.test_num, self.validation = noise, noise_batch_size, test_num, validation
        self.num_workers, self.seed = num_workers, seed
        self.pairs: Dataset | None = None
        self.stored: dict[str, Callable[[], np.ndarray]] = {}  # by callback: which samples need not be generated again
        self.watched = 0  # first samples that a callback looks at, and which are generated in any case

    def setup(self, stage: str) -> None:
        if stage == "fit":
            if self.coupling is None:
                raise FlowlitError("fit needs something to train on: give data.coupling")
            self.pairs = self.coupling.dataset()
            rows = len(cast(Sized, self.pairs))
            if rows < self.batch_size:
                raise FlowlitError(
                    f"{self.coupling.source}: {rows} rows cannot fill one batch of {self.batch_size}; lower batch_size"
                )

    def device_batch_size(self) -> int:
        """Samples per device and accumulated batch.

        Raises:
            FlowlitError: if the global batch cannot be divided so.
        """
        trainer = cast(pl.Trainer, self.trainer)
        share = trainer.world_size * trainer.accumulate_grad_batches
        if self.batch_size % share:
            raise FlowlitError(
                f"batch_size {self.batch_size} is that of one optimizer step and must divide by {trainer.world_size} devices × "
                f"{trainer.accumulate_grad_batches} accumulated batches"
            )
        return self.batch_size // share

    def train_dataloader(self) -> DataLoader:
        trainer, pairs, size = cast(pl.Trainer, self.trainer), cast(Dataset, self.pairs), self.device_batch_size()
        rows = len(cast(Sized, pairs))
        epoch = rows // (size * trainer.world_size)
        batches = trainer.max_steps * trainer.accumulate_grad_batches if trainer.max_steps > 0 else epoch
        done = trainer.global_step * trainer.accumulate_grad_batches
        stream = IndexStream(rows, batches * size, self.seed, trainer.global_rank, trainer.world_size, start=done * size)
        return self._loader(pairs, size, stream, drop_last=True)

    def evaluated(self, command: str = "validate") -> SeededNoise:
        """The noise that a command generates from."""
        if self.noise is None:
            raise FlowlitError("validation needs noise to start from: give data.noise (shape, num)")
        return self.noise.first(self.test_num) if command == "test" else self.noise

    def val_dataloader(self) -> DataLoader:
        return self._striped(self.evaluated() if self.validation is None else self.validation, self.stored)

    def test_dataloader(self) -> DataLoader:
        return self._striped(self.evaluated("test") if self.validation is None else self.validation, self.stored)

    def predict_dataloader(self) -> DataLoader:
        return self._striped(self.evaluated(), {})

    def _striped(self, data: Dataset, stored: dict[str, Callable[[], np.ndarray]]) -> DataLoader:
        trainer = cast(pl.Trainer, self.trainer)
        rows: Sequence[int] = range(len(cast(Sized, data)))
        if stored:
            known = [ask() for ask in stored.values()]
            again = max(self.noise_batch_size * trainer.world_size, self.watched)
            rows = cast(Sequence[int], missing_rows(len(rows), known, again))
        if len(rows) < trainer.world_size:
            raise FlowlitError(f"{len(rows)} samples cannot be divided among {trainer.world_size} processes; use fewer devices")
        return self._loader(data, self.noise_batch_size, Stripe(rows, trainer.global_rank, trainer.world_size))

    def _loader(self, data: Dataset, batch_size: int, sampler: DistributedSampler, **kwargs: Any) -> DataLoader:
        return DataLoader(
            data,
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            **kwargs,
        )

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        trainer = cast(pl.Trainer, self.trainer)
        if trainer.training:
            place = trainer.fit_loop.epoch_loop.total_batch_idx + 1
            torch.manual_seed(mix(self.seed, trainer.global_rank, place))
        return batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        trainer = cast(pl.Trainer, self.trainer)
        if not trainer.training or self.coupling is None:
            return batch
        with torch.no_grad():
            return self.coupling.complete(batch, trainer.strategy.root_device)


def missing_rows(num: int, known: list[np.ndarray], again: int) -> np.ndarray:
    """Rows of 0 … num - 1 that somebody does not know, after the first ``again``, which are always made: callbacks look at them.

    >>> missing_rows(6, [np.array([0, 1, 2, 4]), np.array([2, 3, 4])], again=1).tolist()
    [0, 1, 3, 5]
    """
    everybody = reduce(np.intersect1d, known)
    first = np.arange(min(again, num))
    return np.concatenate([first, np.setdiff1d(np.arange(len(first), num), everybody)])


class PartData(pl.LightningDataModule):
    """The shards of a store that are still to be made, cut into batches, for ``flowlit couple``."""

    def __init__(self, origin: Origin, store: Store, batch_size: int):
        super().__init__()
        self.origin, self.store, self.batch_size = origin, store, batch_size

    @cached_property
    def missing(self) -> list[Shard]:
        """What was to be made when the store had been begun; files that are there already are read for it, once."""
        return cast(pl.Trainer, self.trainer).strategy.broadcast(self.store.missing())

    def predict_dataloader(self) -> DataLoader:
        trainer, missing = cast(pl.Trainer, self.trainer), self.missing
        # with fewer shards than ranks, some are made twice, to the same bytes: an idle rank would break Lightning's barriers
        ranks = max(1, min(trainer.world_size, len(missing)))
        parts = Parts(self.origin, missing[trainer.global_rank % ranks :: ranks], self.batch_size)
        return DataLoader(parts, batch_size=None, sampler=Stripe(range(len(parts))))
