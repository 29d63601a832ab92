"""A progress bar that counts optimizer steps, not epochs."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from functools import wraps
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.utilities import rank_zero_info

from ..._engine.lightning import is_logging_step, optimizer_steps
from ..._support.progress import LINES, Bar, is_terminal, pace
from ...ranges import Checked, NonNegativeInt


def _drawn(make: Callable[[Any], Tqdm]) -> Callable[[Any], Tqdm]:
    """Have a bar count, but draw nothing where there is no terminal."""

    @wraps(make)
    def init(self: Any) -> Tqdm:
        with nullcontext() if is_terminal(sys.stdout) else redirect_stdout(io.StringIO()):
            return make(self)

    return init


def _lined(make: Callable[[Any], Tqdm], what: str) -> Callable[[Any], Any]:
    """Have a bar print lines where there is no terminal."""

    @wraps(make)
    def init(self: Any) -> Any:
        if is_terminal(sys.stdout):
            return make(self)
        return Bar(desc=what, unit=" batches", disable=self.is_disabled, leave=False)

    return init


class Progress(Checked, TQDMProgressBar):
    """Lightning's bar, called "Training": it counts the optimizer steps of ``max_steps``, with the time left.

    To read the numbers beside it is to wait for a GPU, so they are those of the first and the last step, and
    of steps that the trainer logs. Where the output is no terminal (a file, a batch system), a bar would
    fill it: it has some 20 lines of a run instead, each of a step that the trainer logs, and of a validation
    lines that are ten seconds apart.
    """

    init_train_tqdm = _drawn(TQDMProgressBar.init_train_tqdm)
    init_validation_tqdm = _lined(TQDMProgressBar.init_validation_tqdm, "Validation")
    init_test_tqdm = _lined(TQDMProgressBar.init_test_tqdm, "Testing")
    init_predict_tqdm = _lined(TQDMProgressBar.init_predict_tqdm, "Predicting")
    init_sanity_tqdm = _drawn(TQDMProgressBar.init_sanity_tqdm)

    def __init__(
        self, refresh_rate: NonNegativeInt = 1, process_position: NonNegativeInt = 0, leave: bool = False
    ):
        super().__init__(refresh_rate, process_position, leave)

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if hasattr(pl_module, "keep_loss_from_bar"):
            pl_module.keep_loss_from_bar()
        super().on_train_start(trainer, pl_module)
        self._part = 0
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
        if not (first or done == bar.total or is_logging_step(trainer)):
            bar.refresh()
            return
        metrics = self.get_metrics(trainer, pl_module)
        bar.set_postfix(metrics)
        part = LINES * done // int(bar.total) if bar.total else done
        if not is_terminal(sys.stdout) and part > self._part:
            rank_zero_info(f"flowlit: {_line(bar, metrics)}")
            self._part = part

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        loss = trainer.callback_metrics.get("train/loss")
        return metrics if loss is None else {"train/loss": float(loss), **metrics}


def _line(bar: Any, metrics: dict[str, Any]) -> str:
    """Return what a bar shows, as words."""
    numbers = [f"{name} {float(value):.4g}" for name, value in metrics.items()]
    return ", ".join([f"step {pace(bar)}", *numbers])
