"""The length of a run, the number of its validations, and the checkpoints that it keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint

from ..._engine.lightning import steps_between_saves, time_between_saves, validates_by_clock
from ...callbacks.training.checkpoint import LastCheckpoint


def steps_of(trainer: pl.Trainer, rows: int, batch_size: int) -> int | None:
    """Optimizer steps of a run; None if it has no end."""
    if trainer.max_steps > 0:
        return trainer.max_steps
    endless = trainer.max_epochs is None or trainer.max_epochs < 0
    return None if endless else (trainer.max_epochs or 0) * (rows // batch_size)


def validations_of(trainer: pl.Trainer, steps: int) -> int | None:
    """Return the number of validations in a run of so many steps; None if a clock decides.

    With ``max_steps`` the whole run is one epoch of ``FlowDataModule``.
    """
    if trainer.limit_val_batches == 0:
        return 0
    if validates_by_clock(trainer):
        return None
    batches = steps * trainer.accumulate_grad_batches
    every = trainer.check_val_every_n_epoch
    epochs = 1 if trainer.max_steps > 0 or every is None else max(1, trainer.max_epochs or 1)
    interval = trainer.val_check_interval
    wait = max(1, interval if isinstance(interval, int) else int(batches // epochs * interval))
    return batches // wait if every is None else epochs // every * (batches // epochs // wait)


def saves(callback: ModelCheckpoint, steps: int, validations: int | None) -> int | None:
    """Return the number of times that a callback saves in a run; None if a clock decides."""
    if every := steps_between_saves(callback):
        return steps // every
    return None if time_between_saves(callback) is not None else validations or 1


def interval(callback: ModelCheckpoint, steps: int, validations: int | None) -> int | None:
    """Return the most steps that are lost if the run is killed; None if a clock decides."""
    if every := steps_between_saves(callback):
        return min(every, steps)
    times = saves(callback, steps, validations)
    return times and steps // times


def kept(callback: ModelCheckpoint, steps: int, validations: int | None) -> int:
    """Return the number of files that a callback leaves at the end of a run.

    >>> kept(ModelCheckpoint(save_top_k=-1, every_n_train_steps=100), 1000, 0)
    10
    """
    times = saves(callback, steps, validations)
    best = callback.save_top_k if callback.save_top_k >= 0 else times or 1
    return (
        (best if times is None else min(best, times))
        + bool(callback.save_last)
        + isinstance(callback, LastCheckpoint)
    )


def output_folder(trainer: pl.Trainer) -> Path | None:
    """Return the folder of a run's logs and checkpoints; None if it writes nothing."""
    if trainer.loggers and trainer.log_dir is not None:
        return Path(trainer.log_dir)
    callbacks: list[Any] = trainer.checkpoint_callbacks
    folders = [callback.dirpath for callback in callbacks if getattr(callback, "dirpath", None)]
    if folders:
        return Path(folders[0])
    return Path(trainer.default_root_dir) if callbacks else None
