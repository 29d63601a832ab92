"""Optimizers and learning-rate schedulers of a run that goes on: the configuration wins over a checkpoint.

A scheduler keeps what it computes from its arguments, and the optimizer the rate that it has set; neither
follows when an argument changes. So a changed one is built anew, and stepped to where the run is.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from .._engine.loops import lowered, scale_learning_rate
from .._support.names import in_current_names
from .._support.nested import flatten
from ..errors import FlowlitError
from ..generators.inputs import whole_number

Configuration = Mapping[str, Any]
State = dict[str, Any]

MOST = 10**8
"""Steps that a scheduler is stepped through: ten minutes."""


class Rebuilt(NamedTuple):
    """Parameter groups of an optimizer after some steps; the state of its scheduler, then and at first."""

    groups: list[State]
    schedulers: list[State]  # none or one
    begun: State  # flat


def override(
    checkpoint: State, players: Sequence[Any], before: Sequence[Configuration], now: Sequence[Configuration]
) -> None:
    """Write the settings of each network's optimizer and scheduler into a checkpoint, where they changed.

    The rates of all further steps are then those of the new settings, as if they had been there from the
    start; only what ``Rollback`` lowered stays lowered. Without a change what was saved stays, to the bit.

    Args:
        checkpoint: which is changed.
        players: the trained networks, each with ``make_optimizer`` and ``make_scheduler``.
        before: their configurations in the checkpoint; empty for modules that were built in Python.
        now: their configurations; of networks without one, the arguments of schedulers are compared.

    Raises:
        FlowlitError: for an optimizer of another class, or a scheduler that ends before this step.
    """
    factor = lowered(checkpoint)
    states = checkpoint.get("optimizer_states", [])
    schedulers = saved_schedulers(checkpoint, players, before)
    changed = False
    for i, (player, state, old, new) in enumerate(zip(players, states, before, now, strict=False)):
        configured = new.get("optimizer")
        if configured and settings(old) == settings(new):
            continue
        check_class(old.get("optimizer"), configured)
        updates = whole_number(old.get("updates", getattr(player, "updates", 1)), "updates", 1)
        steps = checkpoint["global_step"] * updates
        rebuilt = scaled(rebuild(player, steps), factor)
        if configured or arguments_changed(schedulers[i], rebuilt):
            take_over(state, rebuilt.groups)
            schedulers[i] = rebuilt.schedulers
            changed = True
    if changed:
        checkpoint["lr_schedulers"] = [scheduler for own in schedulers for scheduler in own]


def saved_schedulers(
    checkpoint: State, players: Sequence[Any], before: Sequence[Configuration]
) -> list[list[State]]:
    """Return the states of each network's scheduler, none or one."""
    saved = checkpoint.get("lr_schedulers", [])
    whose = [bool(old.get("lr_scheduler")) for old in before]
    if not any(before):
        whose = [player.make_scheduler is not None for player in players]
        if len(players) == 1:
            whose = [bool(saved)]
    if sum(whose) != len(saved):
        return [[] for _ in whose]  # whose is whose is unknown, so that all count as changed
    remaining = iter(saved)
    return [[next(remaining)] if has else [] for has in whose]


def settings(configuration: Configuration) -> Any:
    """Return the part of a network's configuration that decides its rates."""
    return in_current_names({name: configuration.get(name) for name in ("optimizer", "lr_scheduler")})


def check_class(before: Any, now: Any) -> None:
    """Refuse an optimizer of another class, which cannot go on from the state of the one before.

    Raises:
        FlowlitError: naming both.
    """
    classes = [part.get("class_path") for part in (before, now) if isinstance(part, dict)]
    if len(set(classes)) > 1:
        raise FlowlitError(
            f"the checkpoint's optimizer is {classes[0]}, now {classes[1]}, which cannot go on from its "
            "state; start a new run from its weights instead (network: flowlit.networks.pretrained)"
        )


def rebuild(player: Any, steps: int) -> Rebuilt:
    """Return what a new optimizer and its scheduler are after so many steps, each of six microseconds.

    Raises:
        FlowlitError: if the scheduler ends before, cannot be stepped, or would be for more than minutes.
    """
    optimizer = player.make_optimizer(player.network.parameters())
    if player.make_scheduler is None:
        return Rebuilt(optimizer.state_dict()["param_groups"], [], {})
    if steps > MOST:
        raise FlowlitError(
            f"a changed lr_scheduler cannot go on from step {steps:,}, expected at most {MOST:,}; leave it "
            "as it was, or start a new run from its weights (network: flowlit.networks.pretrained)"
        )
    scheduler = scheduler_of(player, optimizer)
    begun = flatten(scheduler.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch misses the optimizer's own steps
        try:
            for _ in range(steps):
                scheduler.step()
        except (ValueError, ArithmeticError) as error:
            raise FlowlitError(
                f"{type(scheduler).__name__} cannot go on from step {steps}: {error}; choose arguments that "
                "reach as far as the run, or start a new run from its weights "
                "(network: flowlit.networks.pretrained)"
            ) from error
    return Rebuilt(optimizer.state_dict()["param_groups"], [scheduler.state_dict()], begun)


def scaled(rebuilt: Rebuilt, factor: float) -> Rebuilt:
    """Multiply all rates."""
    states = {"optimizer_states": [{"param_groups": rebuilt.groups}], "lr_schedulers": rebuilt.schedulers}
    if factor != 1:
        scale_learning_rate(states, factor)
    return rebuilt


def take_over(state: State, groups: list[State]) -> None:
    """Replace the settings in an optimizer's state; the moments stay."""
    for group, fresh in zip(state["param_groups"], groups, strict=False):
        numbers = group["params"]
        group.clear()
        group.update(fresh, params=numbers)


def arguments_changed(saved: list[State], rebuilt: Rebuilt) -> bool:
    """Return whether a scheduler's state has other arguments than a new one: numbers that no step changes."""
    if not saved or not rebuilt.schedulers:
        return saved != rebuilt.schedulers
    there = flatten(saved[0])
    here = flatten(rebuilt.schedulers[0])
    constant = [key for key, value in here.items() if isinstance(value, (int, float, str))]
    return any(
        here[key] == rebuilt.begun.get(key) and here[key] != there.get(key)
        for key in constant
        if not key.startswith("_last_lr")
    )


def scheduler_of(player: Any, optimizer: Optimizer) -> Any:
    """Build the scheduler of a network.

    Raises:
        FlowlitError: for one that follows a metric and not the steps.
    """
    scheduler = player.make_scheduler(optimizer)
    if isinstance(scheduler, ReduceLROnPlateau):
        raise FlowlitError(
            "ReduceLROnPlateau follows a metric, but rates are functions of the optimizer step here, so that "
            "a run can go on exactly; use flowlit.schedules.WarmUp, CosineAnnealingLR or StepLR, or let "
            "flowlit.callbacks.Rollback lower the rate when training goes wrong"
        )
    return scheduler
