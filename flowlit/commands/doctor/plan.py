"""How long a run is, how often it validates, and which checkpoints it keeps."""

from __future__ import annotations

from pathlib import Path

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
    """How often a run of so many steps validates; None if a clock decides.

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
    """How often a callback saves in a run; None if a clock decides."""
    if every := steps_between_saves(callback):
        return steps // every
    return None if time_between_saves(callback) is not None else validations or 1


def interval(callback: ModelCheckpoint, steps: int, validations: int | None) -> int | None:
    """The most steps that are lost if the run is killed; None if a clock decides."""
    if every := steps_between_saves(callback):
        return min(every, steps)
    found = saves(callback, steps, validations)
    return found and steps // found


def kept(callback: ModelCheckpoint, steps: int, validations: int | None) -> int:
    """How many files a callback leaves at the end of a run.

    >>> kept(ModelCheckpoint(save_top_k=-1, every_n_train_steps=100), 1000, 0)
    10
    """
    found = saves(callback, steps, validations)
    best = callback.save_top_k if callback.save_top_k >= 0 else found or 1
    return (
        (best if found is None else min(best, found))
        + bool(callback.save_last)
        + isinstance(callback, LastCheckpoint)
    )


def output_folder(trainer: pl.Trainer) -> Path | None:
    """Where a run writes its logs and checkpoints; None if it writes nothing."""
    if trainer.loggers and trainer.log_dir is not None:
        return Path(trainer.log_dir)
    given = [
        folder for callback in trainer.checkpoint_callbacks if (folder := getattr(callback, "dirpath", None))
    ]
    return (
        Path(given[0])
        if given
        else (Path(trainer.default_root_dir) if trainer.checkpoint_callbacks else None)
    )
