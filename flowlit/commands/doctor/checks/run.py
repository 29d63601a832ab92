"""Checks of the run: its seed, checkpoints, validations and folder."""

from __future__ import annotations

import os
from typing import Any

from ...._support.formatting import duration
from ..plan import interval, output_folder
from ..subject import Finding, Subject

HOUR = 3600


def no_seed(s: Subject) -> Finding | None:
    if s.trains and "PL_GLOBAL_SEED" not in os.environ:
        return Finding(
            "warning",
            "seed_everything: false draws other first weights each time",
            "seed_everything: 0, or any number",
        )
    return None


def not_saved(s: Subject) -> Finding | None:
    if s.trains and not s.trainer.checkpoint_callbacks:
        return Finding(
            "warning",
            "no checkpoint is kept: what is trained is lost",
            "add flowlit.callbacks.LastCheckpoint",
        )
    return None


def seldom_saved(s: Subject) -> Finding | None:
    """Return a warning if a kill may cost more than an hour, and more than a tenth of the run."""
    seconds = s.seconds_a_step
    if not s.steps or seconds is None or not s.trainer.checkpoint_callbacks:
        return None
    callbacks: list[Any] = s.trainer.checkpoint_callbacks
    intervals = [interval(callback, s.steps, s.validations) for callback in callbacks]
    if None in intervals:
        return None
    lost = min(steps for steps in intervals if steps is not None)
    if lost * seconds > max(HOUR, 0.1 * s.steps * seconds):
        what = f"checkpoints are {lost:,} steps apart: a kill costs up to {duration(lost * seconds)}"
        return Finding("warning", what, "flowlit.callbacks.LastCheckpoint with a smaller every_n_train_steps")
    return None


def never_validated(s: Subject) -> Finding | None:
    if s.trains and s.validations == 0:
        mend = "look at images before it ends"
        if s.trainer.limit_val_batches == 0:
            return Finding("hint", "the run never validates (limit_val_batches: 0)", mend)
        reason = f"val_check_interval {s.trainer.val_check_interval} is beyond the run"
        return Finding("warning", f"the run never validates ({reason})", mend)
    return None


def run_before(s: Subject) -> Finding | None:
    folder = output_folder(s.trainer)
    last = folder and folder / "checkpoints" / "last.ckpt"
    if s.trains and last and last.exists():
        return Finding(
            "hint",
            f"{folder} holds a run already, which a new one replaces",
            "to go on with it: flowlit fit … --resume auto",
        )
    return None
