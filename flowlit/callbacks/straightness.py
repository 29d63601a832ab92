"""Watch a flow become straight."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from torchmetrics import MeanMetric

from ..metrics.straightness import straightness
from .evaluation import Evaluation


class Straightness(Evaluation):
    """Log the straightness of the velocity on the first batch of validation noise.

    ``straightness/sum`` is summed over pixels, as Rectified Flow defines it; ``straightness/per_dimension`` is divided by C·H·W.
    It costs ``steps`` evaluations per sample. Meaningless for a one-step student, whose velocity is trained at t = 0 only.

    Args:
        steps: Euler steps of the estimate.
        num: at most so many samples on each device.
    """

    def __init__(self, steps: int = 100, num: int = 256):
        self.steps, self.num = steps, num
        self._mean = MeanMetric()
        self._dimensions = 1

    def begin(self, trainer: pl.Trainer, module: Any) -> None:
        self._mean = MeanMetric().to(module.device)

    def look(self, trainer: pl.Trainer, module: Any, outputs: Any, batch_idx: int) -> None:
        if batch_idx > 0:
            return
        noise = outputs["noise"]
        x0, cond = noise.x0[: self.num], {key: value[: self.num] for key, value in noise.cond.items()}
        self._dimensions = x0[0].numel()
        self._mean.update(straightness(module.velocity(), x0, cond, self.steps).float())

    def end(self, trainer: pl.Trainer, module: Any) -> None:
        value = self._mean.compute()
        module.log("straightness/sum", value, rank_zero_only=True)
        module.log("straightness/per_dimension", value / self._dimensions, rank_zero_only=True)
