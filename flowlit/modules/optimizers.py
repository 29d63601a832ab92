"""Optimizers and learning-rate schedulers of a network, refused where their numbers make no sense."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Optimizer

from ..errors import FlowlitError
from .overrides import scheduler_of


def optimizer_of(player: Any) -> Any:
    """Return the optimizer and scheduler of a network, as Lightning takes them.

    Raises:
        FlowlitError: if one of them cannot be built, or has a rate that is no number.
    """
    optimizer = _built("optimizer", player.make_optimizer, player.network.parameters())
    check_numbers(optimizer)
    if player.make_scheduler is None:
        return {"optimizer": optimizer}
    scheduler = _built("lr_scheduler", scheduler_of, player, optimizer)
    check_numbers(optimizer)
    check_first_steps(player)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def _built(what: str, build: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return build(*arguments)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise FlowlitError(f"the {what} cannot be built: {error}; see model.{what}") from error


def check_numbers(optimizer: Optimizer) -> None:
    """Refuse NaN among the settings of an optimizer, and a learning rate that is negative or infinite.

    Raises:
        FlowlitError: naming the setting.
    """
    for group in optimizer.param_groups:
        for name, value in group.items():
            if name != "params" and any(math.isnan(number) for number in _numbers(value)):
                raise FlowlitError(f"{type(optimizer).__name__}: {name} is {value}; expected numbers")
        rate = float(group["lr"])
        if not 0 <= rate < math.inf:
            raise FlowlitError(f"{type(optimizer).__name__}: lr is {rate}; expected a finite number >= 0")


def _numbers(value: Any) -> Iterator[float]:
    values = value if isinstance(value, (tuple, list)) else [value]
    yield from (float(entry) for entry in values if isinstance(entry, (int, float)))


def check_first_steps(player: Any) -> None:
    """Take the first steps of a scheduler with a weight of its own, so that what fails there fails at once.

    Raises:
        FlowlitError: where a step divides by 0, as those of ``CosineAnnealingLR(T_max=0)`` do.
    """
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=1e-3, momentum=0.9)
    try:
        with suppress(ValueError, TypeError, KeyError, IndexError):  # one that fits no other optimizer
            scheduler = player.make_scheduler(optimizer)
            for _ in range(2):
                optimizer.step()
                scheduler.step()
                check_numbers(optimizer)
    except ArithmeticError as error:
        raise FlowlitError(
            f"the lr_scheduler fails at its first steps: {error}; see model.lr_scheduler"
        ) from error
