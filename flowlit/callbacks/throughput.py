"""Measure how fast each solver generates."""

from __future__ import annotations

from functools import partial
from typing import Any

import lightning.pytorch as pl

from ..metrics.cost import images_per_second
from ..types import Noise
from .evaluation import Evaluation


class Throughput(Evaluation):
    """Log ``images_per_s/<solver>`` of this device: the median of some timed repeats on one batch, after a warm-up.

    Outside training only, where nothing else competes.

    Args:
        batch_size: samples generated at a time.
        repeats: timed calls of which the median counts.
    """

    def __init__(self, batch_size: int = 256, repeats: int = 3):
        self.batch_size, self.repeats = batch_size, repeats
        self._noise: Noise | None = None

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
