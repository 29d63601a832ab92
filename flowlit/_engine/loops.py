"""Edits of a checkpoint's loops, optimizers and schedulers, before a run goes on from it.

Lightning writes a checkpoint after the optimizer step, but when it goes on from it, takes the validation that
was due for done.
"""

from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as pl

Loop = dict[str, Any]

RATES = ("lr", "initial_lr", "max_lr", "min_lr", "swa_lr")
"""Rates of a parameter group; ``OneCycleLR`` moves between ``max_lr`` and ``min_lr``."""

BOUNDS = ("base_lrs", "max_lrs", "_last_lr", "eta_min")
"""Rates in the state of a scheduler, one or a list."""


def mark_validation_pending(loop: Loop) -> None:
    """Mark in a checkpoint's ``fit_loop`` that its batch is over, and that the validation after it is due.

    Lightning goes on with a validation only if a first batch of it has begun, so one is marked as begun.
    """
    trained = loop["epoch_loop.batch_progress"]
    for part in trained["total"], trained["current"]:
        part["completed"] = part["processed"]
    validated = loop["epoch_loop.val_loop.batch_progress"]
    for part, done in (validated["total"], validated["total"]["completed"]), (validated["current"], 0):
        part.update(ready=done + 1, started=done + 1, processed=done, completed=done)
    loop["validate_first"] = True


def clear_started_batch(trainer: pl.Trainer) -> None:
    """Take back the first batch that ``mark_validation_pending`` marked as begun."""
    total: Any = trainer.fit_loop.epoch_loop.val_loop.batch_progress.total
    total.ready = total.started = total.completed


def rescale_batch_counters(loop: Loop, before: int, now: int) -> None:
    """Count batches as if ``now`` of them, not ``before``, had been accumulated for each step."""
    batches = loop["epoch_loop.batch_progress"]
    for part in batches["total"], batches["current"]:
        under_way = part["processed"] - part["completed"]  # 1 if saved before the batch counts as completed
        part.update({name: part[name] * now // before for name in ("ready", "started", "processed")})
        part["completed"] = part["processed"] - under_way


def lowered(checkpoint: dict[str, Any]) -> float:
    """Return the factor by which callbacks (``Rollback``) have lowered a checkpoint's learning rates."""
    states = checkpoint.get("callbacks", {}).values()
    return math.prod(state["lowered"] for state in states if isinstance(state, dict) and "lowered" in state)


def scale_learning_rate(checkpoint: dict[str, Any], factor: float) -> None:
    """Multiply the learning rates of a checkpoint's optimizers, and all rates of their schedulers."""
    for state in checkpoint.get("optimizer_states", []):
        for group in state["param_groups"]:
            group.update({name: value * factor for name, value in group.items() if name in RATES})
    for scheduler in checkpoint.get("lr_schedulers", []):
        scale_scheduler(scheduler, factor)


def scale_scheduler(state: dict[str, Any], factor: float) -> None:
    """Multiply the rates in the state of a scheduler, and of the schedulers that it consists of."""
    for name in state.keys() & set(BOUNDS):
        rates = state[name]
        state[name] = [rate * factor for rate in rates] if isinstance(rates, list) else rates * factor
    for inner in state.get("_schedulers", []):
        scale_scheduler(inner, factor)
