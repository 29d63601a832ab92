"""Checks of the run: its seed, checkpoints and validations."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from ...._support.formatting import duration
from ....callbacks.training.best import misjudgements
from ..plan import interval
from ..subject import Finding, Subject

HOUR = 3600


def unprepared(s: Subject) -> Iterator[Finding]:
    """Yield a finding for each thing that a training should have, and has not."""
    if not s.trains:
        return
    if s.validations == 0:
        mend = "look at images before it ends"
        if s.trainer.limit_val_batches == 0:
            yield Finding("hint", "the run never validates (limit_val_batches: 0)", mend)
        else:
            reason = f"val_check_interval {s.trainer.val_check_interval} is beyond the run"
            yield Finding("warning", f"the run never validates ({reason})", mend)
    if not s.trainer.checkpoint_callbacks:
        what = "no checkpoint is kept: what is trained is lost"
        yield Finding("warning", what, "add flowlit.callbacks.LastCheckpoint")
    if "PL_GLOBAL_SEED" not in os.environ:
        what = "seed_everything: false draws other first weights each time"
        yield Finding("warning", what, "seed_everything: 0, or any number")


def misjudged(s: Subject) -> Iterator[Finding]:
    """Yield a warning for each checkpoint callback that does not keep what it seems to."""
    for what, mend in misjudgements(s.trainer) if s.trains else ():
        yield Finding("warning", what, mend)


def seldom_saved(s: Subject) -> Iterator[Finding]:
    """Yield a warning if a kill may cost more than an hour, and more than a tenth of the run."""
    seconds = s.seconds_a_step
    if not s.steps or seconds is None:
        return
    callbacks: list[Any] = s.trainer.checkpoint_callbacks
    intervals = [interval(callback, s.steps, s.validations) for callback in callbacks]
    if None in intervals:
        return
    lost = min((steps for steps in intervals if steps is not None), default=0)
    if lost * seconds > max(HOUR, 0.1 * s.steps * seconds):
        what = f"checkpoints are {lost:,} steps apart: a kill costs up to {duration(lost * seconds)}"
        yield Finding("warning", what, "flowlit.callbacks.LastCheckpoint with a smaller every_n_train_steps")
