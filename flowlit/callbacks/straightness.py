"""Watch a flow become straight."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torchmetrics import MeanMetric

from ..metrics.straightness import straightness


class Straightness(Callback):
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

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._mean = MeanMetric().to(pl_module.device)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx > 0:
            return
        x0, cond = batch.x0[: self.num], {key: value[: self.num] for key, value in batch.cond.items()}
        self._dimensions = x0[0].numel()
        self._mean.update(straightness(pl_module.velocity(), x0, cond, self.steps).float())

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        value = self._mean.compute()
        pl_module.log("straightness/sum", value, rank_zero_only=True)
        pl_module.log("straightness/per_dimension", value / self._dimensions, rank_zero_only=True)

    on_test_start = on_validation_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end
