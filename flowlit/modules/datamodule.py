"""The data of every stage: pairs of a coupling for training, seeded noise for everything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from functools import reduce
from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from torch.utils.data import DataLoader, Dataset, DistributedSampler, default_collate

from .. import rng
from .._engine.lightning import accumulated_batches, batches_seen, mark_logged_values_stale
from .._support.permutation import mix
from .._support.timers import DeviceTimer
from ..couplings import SeededNoise
from ..errors import FlowlitError
from ..types import Coupling, ImageDataset, Pair, Source
from .batches import accumulation
from .prefetch import PrefetchedBatch, Prefetcher
from .samplers import ShuffledSampler, StridedSampler


def collate(rows: Any) -> Any:
    """Stack rows, unless the data set read the batch at once (``__getitems__``)."""
    return default_collate(rows) if isinstance(rows, list) else rows


class FlowDataModule(pl.LightningDataModule):
    """Pairs for ``fit``; seeded noise (or held-out images) for ``validate``, ``test`` and ``predict``.

    Every random draw of a training step follows from (seed, step): resuming is exact. Noise, times and flips
    are drawn for the whole batch, of which each device takes its rows: they do not depend on how many devices
    share it. Dropout does.

    Args:
        coupling: what to train on; not needed to validate, test, predict or couple.
        batch_size: of one optimizer step over all devices; divided among devices and accumulated batches.
        noise: from which validation, testing, prediction and ``flowlit couple`` start: ``SeededNoise``, or
            another ``Source``.
        noise_batch_size: samples generated at a time on each device; no sample depends on it.
        test_num: samples of ``test``, from the same noise; ``noise`` has those of everything else.
        validation: labelled images instead of noise, for classifiers.
        num_workers: processes that read data; 0 is best for stored pairs.
        seed: of data order and all draws of the training steps.
        device_batch_size: samples that a device works on at a time, at most; gradients of several such
            batches are then accumulated, as many as that takes. None does not limit it.
        new_batch_size: go on from a checkpoint of another batch_size, at the row where it stopped, instead of
            refusing it.
        overlap: complete the next batch while this one trains; None does so for pairs made on the fly on a
            GPU.
    """

    def __init__(
        self,
        coupling: Coupling | None = None,
        batch_size: int = 128,
        noise: SeededNoise | Source | None = None,  # the first names it in a YAML without class_path
        noise_batch_size: int = 256,
        test_num: int = 50_000,
        validation: ImageDataset | None = None,
        num_workers: int = 0,
        seed: int = 0,
        device_batch_size: int | None = None,
        new_batch_size: bool = False,
        overlap: bool | None = None,
    ):
        super().__init__()
        self.coupling = coupling
        self.batch_size = batch_size
        self.device_batch_size = device_batch_size
        self.new_batch_size = new_batch_size
        self.overlap = overlap
        self.watch = DeviceTimer()  # of the coupling's half on the device
        self.noise = noise
        self.noise_batch_size = noise_batch_size
        self.test_num = test_num
        self.validation = validation
        self.num_workers = num_workers
        self.seed = seed
        self.pairs: Dataset | None = None
        self.stored: dict[
            str, Callable[[], np.ndarray]
        ] = {}  # by callback: which samples need not be generated again
        self._stopped = (0, 0)  # batches, and rows, that lay behind the run when it was taken up again
        self.attempt = 0  # times that training went back: its draws are others then
        self.watched = 0  # first samples that a callback looks at, and which are generated in any case

    def setup(self, stage: str) -> None:
        if stage == "fit":
            if self.coupling is None:
                raise FlowlitError("fit needs something to train on: give data.coupling")
            self._divide()
            self.pairs = self.coupling.dataset()
            codec = getattr(getattr(self.trainer, "lightning_module", None), "codec", None)
            if codec is not None:
                self.coupling.check_codec(codec)
            rows = len(cast(Sized, self.pairs))
            if rows < self.batch_size:
                raise FlowlitError(
                    f"{self.coupling.source}: {rows} rows cannot fill one batch of {self.batch_size}; lower "
                    "batch_size"
                )

    def _divide(self) -> None:
        """Accumulate as many batches as ``device_batch_size`` asks for; steps between two validations stay
        optimizer steps.
        """
        trainer = cast(pl.Trainer, self.trainer)
        limit = self.device_batch_size
        if limit is None:
            return
        accumulated = accumulation(self.batch_size, trainer.world_size, limit)
        if trainer.accumulate_grad_batches not in (1, accumulated):
            raise FlowlitError(
                f"device_batch_size {limit} of batch_size {self.batch_size} makes {accumulated} accumulated "
                "batches, but "
                f"trainer.accumulate_grad_batches is {trainer.accumulate_grad_batches}; give only one of "
                "the two"
            )
        if trainer.accumulate_grad_batches != accumulated and isinstance(trainer.val_check_interval, int):
            trainer.val_check_interval *= accumulated  # Lightning counts batches
        trainer.accumulate_grad_batches = accumulated

    def rows_at_a_time(self) -> int:
        """Samples per device and accumulated batch.

        Raises:
            FlowlitError: if the global batch cannot be divided so.
        """
        trainer = cast(pl.Trainer, self.trainer)
        share = trainer.world_size * accumulated_batches(trainer)
        if self.batch_size % share:
            raise FlowlitError(
                f"batch_size {self.batch_size} is that of one optimizer step and must divide by "
                f"{trainer.world_size} devices × "
                f"{accumulated_batches(trainer)} accumulated batches"
            )
        return self.batch_size // share

    def rows_seen(self) -> int:
        """Samples that training has taken so far, over all devices."""
        trainer = cast(pl.Trainer, self.trainer)
        (batches, rows) = self._stopped
        return rows + (batches_seen(trainer) - batches) * self.batch_size // accumulated_batches(trainer)

    def train_dataloader(self) -> DataLoader:
        trainer = cast(pl.Trainer, self.trainer)
        pairs = cast(Dataset, self.pairs)
        size = self.rows_at_a_time()
        rows = len(cast(Sized, pairs))
        world = trainer.world_size
        steps = trainer.max_steps if trainer.max_steps > 0 else rows // self.batch_size
        length = steps * trainer.accumulate_grad_batches * size
        stream = ShuffledSampler(
            rows, length, self.seed, trainer.global_rank, world, start=lambda: self.rows_seen() // world
        )
        loader = self._loader(pairs, size, stream, drop_last=True)
        if not self.overlaps():
            return loader
        device = trainer.strategy.root_device

        def prepare(batch: Any, number: int) -> tuple[Pair, rng.Share]:
            share = self._share(*divmod(number, accumulated_batches(trainer)))
            rng.begin(share)
            return self._complete(move_data_to_device(batch, device), device), share

        return Prefetcher(loader, prepare, device, lambda: batches_seen(trainer))  # type: ignore[return-value]

    def overlaps(self) -> bool:
        """Whether the next batch is completed while this one trains."""
        on_gpu = cast(pl.Trainer, self.trainer).strategy.root_device.type == "cuda"
        return on_gpu and cast(Coupling, self.coupling).simulates if self.overlap is None else self.overlap

    def state_dict(self) -> dict[str, Any]:
        trainer = cast(pl.Trainer, self.trainer)
        facts = {"batch_size": self.batch_size, "accumulated": trainer.accumulate_grad_batches}
        return {**facts, "batches": batches_seen(trainer), "rows": self.rows_seen()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        trainer = cast(pl.Trainer, self.trainer)
        if trainer.state.fn != "fit":
            return
        if (before := state_dict["batch_size"]) != self.batch_size and not self.new_batch_size:
            raise FlowlitError(
                f"the checkpoint was trained with batch_size {before}, now it is {self.batch_size}; give "
                "--data.batch_size "
                f"{before} to go on exactly, or --data.new_batch_size true to go on with other batches"
            )
        batches = state_dict["batches"] * trainer.accumulate_grad_batches // state_dict["accumulated"]
        self._stopped = (batches, state_dict["rows"])

    def evaluated(self, command: str = "validate") -> Source:
        """The noise that a command generates from."""
        if self.noise is None:
            raise FlowlitError("validation needs noise to start from: give data.noise (shape, num)")
        return self.noise.first(self.test_num) if command == "test" else self.noise

    def val_dataloader(self) -> DataLoader:
        return self._striped(self.evaluated() if self.validation is None else self.validation, self.stored)

    def test_dataloader(self) -> DataLoader:
        return self._striped(
            self.evaluated("test") if self.validation is None else self.validation, self.stored
        )

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
            raise FlowlitError(
                f"{len(rows)} samples cannot be divided among {trainer.world_size} processes; use fewer "
                "devices"
            )
        return self._loader(
            data, self.noise_batch_size, StridedSampler(rows, trainer.global_rank, trainer.world_size)
        )

    def _loader(
        self, data: Dataset, batch_size: int, sampler: DistributedSampler, **kwargs: Any
    ) -> DataLoader:
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
        if trainer.training and trainer.state.fn == "fit":
            mark_logged_values_stale(trainer)
            self._begin_draws(trainer)
        return batch

    def teardown(self, stage: str) -> None:
        rng.begin(None)

    def on_exception(self, exception: BaseException) -> None:
        rng.begin(None)

    def _begin_draws(self, trainer: pl.Trainer) -> None:
        """Let all draws follow from the optimizer step: those of ``draws`` are shared, all others (dropout)
        are this device's.
        """
        step, turn = divmod(batches_seen(trainer), accumulated_batches(trainer))
        rng.begin(self._share(step, turn))
        rng.seed(
            trainer.strategy.root_device, mix(self.seed, 1 + trainer.global_rank, turn, *self._again(), step)
        )

    def _share(self, step: int, turn: int) -> rng.Share:
        """The rows that this device has in an accumulated batch of a step."""
        trainer = cast(pl.Trainer, self.trainer)
        rows = self.rows_at_a_time()
        first = turn * rows * trainer.world_size + trainer.global_rank
        return rng.Share(
            mix(self.seed, 0, *self._again(), step), self.batch_size, rows, first, trainer.world_size
        )

    def _again(self) -> tuple[int, ...]:
        return (self.attempt,) if self.attempt else ()

    def _complete(self, batch: Any, device: torch.device) -> Pair:
        with torch.no_grad(), self.watch.running(device):
            return cast(Coupling, self.coupling).complete(batch, device)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        trainer = cast(pl.Trainer, self.trainer)
        if not trainer.training or self.coupling is None:
            return batch
        if isinstance(batch, PrefetchedBatch):
            pair, share = batch.result()
            rng.begin(share)  # it goes on where the coupling's draws ended
            return pair
        return self._complete(batch, trainer.strategy.root_device)


def missing_rows(num: int, known: list[np.ndarray], again: int) -> np.ndarray:
    """Rows of 0 … num - 1 that somebody does not know, after the first ``again``, which are always made:
    callbacks look at them.

    >>> missing_rows(6, [np.array([0, 1, 2, 4]), np.array([2, 3, 4])], again=1).tolist()
    [0, 1, 3, 5]
    """
    everybody = reduce(np.intersect1d, known)
    first = np.arange(min(again, num))
    return np.concatenate([first, np.setdiff1d(np.arange(len(first), num), everybody)])
