"""The data of every stage: pairs of a coupling for training, seeded noise for everything else."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any, cast

import torch
from lightning.fabric.utilities import move_data_to_device
from torch.utils.data import Dataset

from .. import rng
from .._engine.lightning import accumulated_batches, batches_of_a_step, batches_seen, mark_logged_values_stale
from .._support.timers import DeviceTimer
from ..couplings import SeededNoise
from ..errors import FlowlitError
from ..ranges import NonNegativeInt, PositiveInt, Seed
from ..types import Coupling, ImageDataset, Pair, Source
from .batches import GlobalBatch, accumulate, check_filled, check_same_size
from .evaluation import EvaluationData, make_loader
from .prefetch import PrefetchedBatch, Prefetcher
from .samplers import ShuffledSampler


class FlowDataModule(EvaluationData):
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
        batch_size: PositiveInt = 128,
        noise: SeededNoise | Source | None = None,  # the first names it in a YAML without class_path
        noise_batch_size: PositiveInt = 256,
        test_num: PositiveInt = 50_000,
        validation: ImageDataset | None = None,
        num_workers: NonNegativeInt = 0,
        seed: Seed = 0,
        device_batch_size: PositiveInt | None = None,
        new_batch_size: bool = False,
        overlap: bool | None = None,
    ):
        super().__init__(noise, noise_batch_size, test_num, validation, num_workers)
        self.coupling = coupling
        self.batch_size = batch_size
        self.device_batch_size = device_batch_size
        self.new_batch_size = new_batch_size
        self.overlap = overlap
        self.seed = seed
        self.pairs: Dataset | None = None
        self._timer = DeviceTimer()
        self._attempt = 0
        self._resumed = (0, 0)  # batches, and rows, that lay behind the run when it was taken up again

    def restart(self, attempt: int) -> None:
        """Draw afresh, after training went back for the ``attempt``-th time; 0 is the first course."""
        self._attempt = attempt

    def coupling_seconds(self) -> float:
        """Return the mean seconds that the coupling's half on the device took since the last call."""
        return self._timer.read()

    def global_batch(self) -> GlobalBatch:
        """Return how the batch of an optimizer step is divided, and what its draws follow from."""
        devices = self.trainer.world_size
        parts = accumulated_batches(self.trainer)
        return GlobalBatch(self.batch_size, devices, parts, self.seed, self._attempt)

    def rows_seen(self) -> int:
        """Return the samples that training has taken so far, over all devices."""
        batches, rows = self._resumed
        seen = batches_seen(self.trainer) - batches
        return rows + seen * self.batch_size // accumulated_batches(self.trainer)

    def overlaps(self) -> bool:
        """Return whether the next batch is completed while this one trains."""
        if self.overlap is not None:
            return self.overlap
        return self.trainer.strategy.root_device.type == "cuda" and cast(Coupling, self.coupling).simulates

    def setup(self, stage: str) -> None:
        if stage != "fit":
            return
        if self.coupling is None:
            raise FlowlitError("fit needs something to train on: give data.coupling")
        if self.device_batch_size is not None:
            accumulate(self.trainer, self.batch_size, self.device_batch_size)
        self.pairs = self.coupling.dataset()
        codec = getattr(getattr(self.trainer, "lightning_module", None), "codec", None)
        if codec is not None:
            self.coupling.check_codec(codec)
        check_filled(self.batch_size, len(cast(Sized, self.pairs)), self.coupling.source)

    def state_dict(self) -> dict[str, Any]:
        facts = {"batch_size": self.batch_size, "accumulated": batches_of_a_step(self.trainer)}
        return {**facts, "batches": batches_seen(self.trainer), "rows": self.rows_seen()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.trainer.state.fn == "fit":
            check_same_size(state_dict["batch_size"], self.batch_size, self.new_batch_size)
            batches = state_dict["batches"] * self.trainer.accumulate_grad_batches
            self._resumed = (batches // state_dict["accumulated"], state_dict["rows"])

    def train_dataloader(self) -> Any:
        trainer = self.trainer
        pairs: Any = self.pairs
        size = self.global_batch().rows
        world = trainer.world_size
        steps = trainer.max_steps if trainer.max_steps > 0 else len(pairs) // self.batch_size
        length = steps * trainer.accumulate_grad_batches * size
        sampler = ShuffledSampler(
            len(pairs), length, self.seed, trainer.global_rank, world, lambda: self.rows_seen() // world
        )
        loader = make_loader(pairs, size, sampler, self.num_workers, drop_last=True)
        if not self.overlaps():
            return loader
        return Prefetcher(loader, self._prepare, trainer.strategy.root_device, lambda: batches_seen(trainer))

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Let all draws follow from the step: those of ``rng`` are shared, others (dropout) this device's."""
        trainer = self.trainer
        if trainer.training and trainer.state.fn == "fit":
            mark_logged_values_stale(trainer)
            place = batches_seen(trainer), trainer.global_rank
            rng.begin(self.global_batch().share(*place))
            rng.seed(trainer.strategy.root_device, self.global_batch().own_seed(*place))
        return batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if not self.trainer.training or self.coupling is None:
            return batch
        if not isinstance(batch, PrefetchedBatch):
            return self._complete(batch)
        pair, share = batch.result()
        rng.begin(share)  # it goes on where the coupling's draws ended
        return pair

    def teardown(self, stage: str) -> None:
        rng.begin(None)

    def on_exception(self, exception: BaseException) -> None:
        rng.begin(None)

    def _prepare(self, batch: Any, number: int) -> tuple[Pair, rng.Share]:
        """Complete a batch ahead of its step."""
        share = self.global_batch().share(number, self.trainer.global_rank)
        rng.begin(share)
        return self._complete(move_data_to_device(batch, self.trainer.strategy.root_device)), share

    def _complete(self, batch: Any) -> Pair:
        device = self.trainer.strategy.root_device
        with torch.no_grad(), self._timer.running(device):
            return cast(Coupling, self.coupling).complete(batch, device)
