"""Numbers of Lightning's Trainer, whose own checks come late or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import EarlyStopping, Timer

from ..._engine.lightning import awaits_no_one, spawns
from ...errors import FlowlitError
from ...ranges import NonNegativeFloat, NonNegativeInt, PositiveInt, check_of, number

Limit = number(int, "> 0, or -1 for no limit", lambda value: value == -1 or value > 0)
Checks = number(int, ">= 0, or -1 for all", lambda value: value >= -1)
Batches = number(
    float, ">= 0: a count, or a share up to 1.0", lambda value: value >= 0 and _is_count_or_share(value)
)
Interval = number(
    float, "> 0: a count, or a share up to 1.0", lambda value: value > 0 and _is_count_or_share(value)
)

NUMBERS: dict[str, Any] = {
    "max_steps": Limit,
    "max_epochs": Limit | None,
    "min_steps": NonNegativeInt | None,
    "min_epochs": NonNegativeInt | None,
    "limit_train_batches": Batches | None,
    "limit_val_batches": Batches | None,
    "limit_test_batches": Batches | None,
    "limit_predict_batches": Batches | None,
    "overfit_batches": Batches,
    "val_check_interval": Interval | str | timedelta | dict | None,
    "check_val_every_n_epoch": PositiveInt | None,
    "num_sanity_val_steps": Checks | None,
    "log_every_n_steps": NonNegativeInt | None,
    "accumulate_grad_batches": PositiveInt,
    "gradient_clip_val": NonNegativeFloat | None,
    "num_nodes": PositiveInt,
    "reload_dataloaders_every_n_epochs": NonNegativeInt,
}
"""Ranges of the Trainer's arguments."""


def _is_count_or_share(value: float) -> bool:
    return isinstance(value, int) or value <= 1


def checked_numbers(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers among the arguments of a Trainer as plain ones.

    Raises:
        FlowlitError: naming one beyond its range.
    """
    checks = {name: check_of(NUMBERS[name]) for name in arguments.keys() & NUMBERS.keys()}
    return {name: check(f"trainer.{name}", arguments[name]) for name, check in checks.items() if check}


def check_seed(seed: int | bool | None) -> None:
    """Refuse a seed that NumPy's generator does not take; true draws one, false seeds nothing.

    Raises:
        FlowlitError: naming it.
    """
    if seed is None or (not isinstance(seed, bool) and not 0 <= seed < 2**32):
        raise FlowlitError(f"seed_everything is {seed}; expected a whole number in [0, 2**32), true or false")


def is_endless(arguments: Mapping[str, Any]) -> bool:
    """Return whether nothing among the arguments of a Trainer ends a fit.

    Lightning would then stop after 1,000 passes over the data, or never.
    """
    unlimited = arguments.get("max_steps", -1) == -1 and arguments.get("max_epochs") in (None, -1)
    return unlimited and arguments.get("max_time") is None and not arguments.get("fast_dev_run")


def check_run(trainer: pl.Trainer) -> None:
    """Refuse a time limit that has passed before a run begins, and processes that begin from a pickle.

    Raises:
        FlowlitError: naming it.
    """
    if spawns(trainer):
        raise FlowlitError("a strategy that spawns its processes cannot pass on a run; choose ddp")
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    for timer in (callback for callback in callbacks if isinstance(callback, Timer)):
        seconds = timer.time_remaining()
        if seconds is not None and seconds <= 0:
            raise FlowlitError(f"trainer.max_time is {seconds:g} seconds; expected more than 0")


def check_nodes(trainer: pl.Trainer) -> None:
    """Refuse to wait for ever for the processes of other nodes.

    Raises:
        FlowlitError: saying how they are started.
    """
    if awaits_no_one(trainer):
        raise FlowlitError(
            f"trainer.num_nodes is {trainer.num_nodes}, but nothing starts this command on the other nodes; "
            "start it with srun or torchrun, or with MASTER_ADDR, MASTER_PORT and NODE_RANK on each of them"
        )


def check_end(trainer: pl.Trainer) -> None:
    """Refuse a fit that nothing ends.

    Raises:
        FlowlitError: saying what would.
    """
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    has_end = any(isinstance(callback, (Timer, EarlyStopping)) for callback in callbacks)
    if getattr(trainer, "endless", False) and not has_end:
        raise FlowlitError(
            "nothing ends this fit: max_steps is -1, and there are no max_epochs and no max_time; give "
            "--trainer.max_steps, or --trainer.max_time 00:12:00:00 (days:hours:minutes:seconds)"
        )
