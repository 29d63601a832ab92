"""How far training is: read from Lightning's loops, and mended in checkpoints.

Lightning writes a checkpoint after the optimizer step, but when it goes on from it, takes the validation that
was due for done.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl

Loop = dict[str, Any]


def validation_awaits(trainer: pl.Trainer) -> bool:
    """Whether the step that has just been made will be followed by a validation."""
    loop = trainer.fit_loop.epoch_loop
    within = (
        loop.batch_progress.current.completed == loop.batch_progress.current.ready - 1
    )  # the batch is not quite over
    fetcher = trainer.fit_loop._data_fetcher
    return (
        within
        and not trainer.sanity_checking
        and fetcher is not None
        and validates(trainer)
        and loop._should_check_val_fx(fetcher)
    )


def validates(trainer: pl.Trainer) -> bool:
    """Whether validation does anything in this run."""
    return bool(trainer.enable_validation and trainer.limit_val_batches)


def mark_validation_pending(loop: Loop) -> None:
    """Mark in a checkpoint's ``fit_loop`` that its batch is over, and that the validation after it has not
    begun.
    """
    for part in (batches := loop["epoch_loop.batch_progress"])["total"], batches["current"]:
        part["completed"] = part["processed"]
    validated = loop["epoch_loop.val_loop.batch_progress"]
    for part, done in (validated["total"], validated["total"]["completed"]), (validated["current"], 0):
        part.update(
            ready=done + 1, started=done + 1, processed=done, completed=done
        )  # as if a first batch had been begun
    loop["validate_first"] = True


def clear_started_batch(trainer: pl.Trainer) -> None:
    """Take back the first batch that ``mark_validation_pending`` had pretended to have begun."""
    total: Any = trainer.fit_loop.epoch_loop.val_loop.batch_progress.total
    total.ready = total.started = total.completed


def mark_logged_values_stale(trainer: pl.Trainer) -> None:
    """Let what an earlier step logged not be written once more: told to stop, Lightning writes all that it
    knows in that step.
    """
    for metric in trainer.fit_loop.epoch_loop._results.values():
        if metric.meta.on_step and not metric.meta.on_epoch:
            metric.has_reset = True


def scale_learning_rate(checkpoint: dict[str, Any], factor: float) -> None:
    """Multiply the learning rates of a checkpoint's optimizers, and all that their schedulers start from or
    lead to.
    """
    for group in (
        group for state in checkpoint.get("optimizer_states", []) for group in state["param_groups"]
    ):
        group.update({name: value * factor for name, value in group.items() if name in RATES})
    for scheduler in checkpoint.get("lr_schedulers", []):
        scale_scheduler(scheduler, factor)


RATES = ("lr", "initial_lr", "max_lr", "min_lr")
"""Of a parameter group; the last two are what ``OneCycleLR`` goes between."""


def scale_scheduler(state: dict[str, Any], factor: float) -> None:
    """Multiply the rates that a scheduler remembers, and those of the schedulers that it is made of."""
    state.update(
        {name: [rate * factor for rate in state[name]] for name in ("base_lrs", "_last_lr") if name in state}
    )
    for inner in state.get("_schedulers", []):
        scale_scheduler(inner, factor)


def rescale_batch_counters(loop: Loop, before: int, now: int) -> None:
    """Count batches as if ``now`` of them, not ``before``, had been accumulated for each optimizer step from
    the start.
    """
    for part in (batches := loop["epoch_loop.batch_progress"])["total"], batches["current"]:
        under_way = (
            part["processed"] - part["completed"]
        )  # Lightning saves before it counts the last one as completed
        part.update({name: part[name] * now // before for name in ("ready", "started", "processed")})
        part["completed"] = part["processed"] - under_way


def checkpoint_folder(trainer: pl.Trainer, callback: Any) -> Path:
    """Where a checkpoint callback writes."""
    return Path(str(callback.dirpath or callback._ModelCheckpoint__resolve_ckpt_dir(trainer)))


def batches_seen(trainer: pl.Trainer) -> int:
    """Batches that this device has trained on, over all epochs; those that are accumulated count each."""
    return trainer.fit_loop.epoch_loop.batch_progress.total.ready


def is_logging_step(trainer: pl.Trainer) -> bool:
    """Whether what a callback logs at the end of this training batch reaches the loggers
    (``trainer.log_every_n_steps``).
    """
    return trainer._logger_connector.should_update_logs and not trainer.fit_loop._should_accumulate()
