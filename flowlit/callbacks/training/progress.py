"""A progress bar that counts optimizer steps, not epochs."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import TQDMProgressBar

from ..._engine.lightning import is_logging_step, optimizer_steps


class Progress(TQDMProgressBar):
    """Lightning's bar, called "Training": it counts the optimizer steps of ``max_steps``, with the time left.

    To read the numbers beside it is to wait for a GPU, so they are those of the first and the last step, and
    of steps that the trainer logs.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if hasattr(pl_module, "keep_loss_from_bar"):
            pl_module.keep_loss_from_bar()
        super().on_train_start(trainer, pl_module)
        self._count_steps(trainer)  # a run that goes on within an epoch does not begin one

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        super().on_train_epoch_start(trainer)
        self._count_steps(trainer)

    def _count_steps(self, trainer: pl.Trainer) -> None:
        bar = self.train_progress_bar
        steps = trainer.max_steps
        bar.set_description("Training" if steps > 0 else f"Epoch {trainer.current_epoch}")
        if steps > 0:
            bar.reset(steps)
            bar.initial = bar.n = optimizer_steps(trainer)  # the speed is that of the steps from here

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        bar = self.train_progress_bar
        by_steps = trainer.max_steps > 0
        done = optimizer_steps(trainer) if by_steps else batch_idx + 1
        due = done % self.refresh_rate == 0 or done == bar.total or is_logging_step(trainer)
        if bar.disable or done == bar.n or not due:
            return
        first = bar.n == bar.initial
        bar.n = done
        if first or done == bar.total or is_logging_step(trainer):
            bar.set_postfix(self.get_metrics(trainer, pl_module))
        else:
            bar.refresh()

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        loss = trainer.callback_metrics.get("train/loss")
        return metrics if loss is None else {"train/loss": float(loss), **metrics}
