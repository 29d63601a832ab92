"""Measure how fast each solver generates."""

from __future__ import annotations

from functools import partial
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from ..metrics.cost import images_per_second
from ..types import Noise


class Throughput(Callback):
    """Log ``images_per_s/<solver>`` of this device: the median of some timed repeats on one batch, after a warm-up.

    Outside training only, where nothing else competes.

    Args:
        batch_size: samples generated at a time.
        repeats: timed calls of which the median counts.
    """

    def __init__(self, batch_size: int = 256, repeats: int = 3):
        self.batch_size, self.repeats = batch_size, repeats
        self._noise: Noise | None = None

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx == 0:
            cond = {key: value[: self.batch_size] for key, value in batch.cond.items()}
            self._noise = Noise(batch.index[: self.batch_size], batch.x0[: self.batch_size], cond)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        noise = self._noise
        if noise is None or trainer.state.fn == "fit":
            return
        for name in pl_module.solvers:
            rate = images_per_second(partial(pl_module.solve, name, noise), len(noise.x0), self.repeats)
            pl_module.log(f"images_per_s/{name}", rate, rank_zero_only=True)

    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end
