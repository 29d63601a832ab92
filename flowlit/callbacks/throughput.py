"""Measure how fast a run trains, and how fast each solver generates."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import lightning.pytorch as pl

from ..metrics.cost import images_per_second
from ..types import Noise
from .evaluation import Evaluation
from .loss_over_time import logging_now


class Throughput(Evaluation):
    """Log how many images a second are trained on, and generated.

    ``images_per_s/train`` during ``fit``: training images of all ranks by wall time since it was last logged, which is when the
    trainer logs; validation is left out, waiting for data and checkpoints are not. ``step_seconds/all`` is the same time for each
    batch, ``step_seconds/coupling`` the part of it that the coupling takes on the device: the teacher's solver, where pairs are
    made on the fly (it runs beside the training step if ``data.overlap`` lets it). Outside training, where nothing else competes,
    ``images_per_s/<solver>`` of this device: the median of some timed repeats on one batch, after a warm-up.

    Args:
        batch_size: samples generated at a time.
        repeats: timed calls of which the median counts.
    """

    def __init__(self, batch_size: int = 256, repeats: int = 3):
        self.batch_size, self.repeats = batch_size, repeats
        self._noise: Noise | None = None
        self._images, self._batches, self._since, self._paused = 0, 0, 0.0, 0.0

    def protocol(self) -> dict[str, Any]:
        timed = 0 if self._noise is None else len(self._noise.x0)
        return {"images_per_s": {"batch_size": timed, "repeats": self.repeats}}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._images, self._batches, self._since = 0, 0, time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._images += len(batch.x1) * trainer.world_size
        self._batches += 1
        if logging_now(trainer):
            now = time.perf_counter()
            pl_module.log("images_per_s/train", self._images / (now - self._since), batch_size=1)
            pl_module.log("step_seconds/all", (now - self._since) / self._batches, batch_size=1)
            if (watch := getattr(getattr(trainer, "datamodule", None), "watch", None)) is not None:
                pl_module.log("step_seconds/coupling", watch.read(), batch_size=1)
            self._images, self._batches, self._since = 0, 0, now

    def begin(self, trainer: pl.Trainer, module: Any) -> None:
        self._paused = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._since += time.perf_counter() - self._paused

    def look(self, trainer: pl.Trainer, module: Any, outputs: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            noise = outputs["noise"]
            cond = {key: value[: self.batch_size] for key, value in noise.cond.items()}
            self._noise = Noise(noise.index[: self.batch_size], noise.x0[: self.batch_size], cond)

    def end(self, trainer: pl.Trainer, module: Any) -> None:
        noise = self._noise
        if noise is None or trainer.state.fn == "fit":
            return
        for name in module.solvers:
            with trainer.precision_plugin.val_step_context():
                rate = images_per_second(partial(module.solve, name, noise), len(noise.x0), self.repeats)
            module.log(f"images_per_s/{name}", rate, rank_zero_only=True)
