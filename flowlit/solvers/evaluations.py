"""Solvers by what they cost: the number of steps for a number of evaluations."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import FlowlitError
from ..types import Cond, Solver


class _Still:
    """A velocity of 0 that counts as several evaluations of a network."""

    def __init__(self, evaluations: int):
        self.evaluations = evaluations

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = {}) -> Tensor:
        return torch.zeros_like(x)


def with_evaluations(solver: Solver, nfe: int, each: int = 1) -> Solver:
    """Return the same solver with as many steps as take ``nfe`` evaluations of a network for an image.

    The evaluations of one step and of two are counted, so that a solver of your own needs no more than a
    field ``steps``.

    >>> from flowlit.solvers import Heun
    >>> with_evaluations(Heun(1), 6)
    Heun(steps=3, rho=1.0, grid=None, r=1.0)

    Args:
        solver: a dataclass with a field ``steps``; one that has none must take ``nfe`` evaluations anyway.
        nfe: evaluations for an image.
        each: evaluations that a call of the network is, see ``evaluations_of``.

    Raises:
        FlowlitError: if no number of steps takes so many; with those next to it that can be had.
    """
    name = type(solver).__name__
    names = {field.name for field in fields(solver)} if is_dataclass(solver) else set[str]()
    if "steps" not in names:
        if getattr(solver, "takes_average", False) and nfe == each:
            return solver
        raise FlowlitError(
            f"nfe is {nfe}, but {name} has no steps to choose by it; leave it out, or take another solver, "
            "e.g. Heun"
        )
    free: dict[str, Any] = {"grid": None} if "grid" in names else {}  # one that is given is for its own steps
    kind: Any = solver
    one, two = (_count(replace(kind, steps=steps, **free), each) for steps in (1, 2))
    steps, remainder = divmod(nfe - 2 * one + two, two - one)
    if remainder or steps < 1:
        low = max(1, steps)
        near = [one + (two - one) * (number - 1) for number in (low, low + 1)]
        raise FlowlitError(
            f"nfe is {nfe}, which {name} cannot have; its numbers next to it are {near[0]} and {near[1]}"
        )
    return replace(kind, steps=steps)


def _count(solver: Solver, each: int) -> int:
    """Return the evaluations of a network that a solver takes for an image."""
    return int(solver(_Still(each), torch.zeros(1, 1, 1, 1)).nfe[0])
