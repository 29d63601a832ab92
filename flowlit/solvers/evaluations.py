"""Solvers by what they cost: the number of steps for a number of evaluations."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import FlowlitError
from ..types import Cond, Solver

MOST = 10_000
"""Evaluations at most."""

BUDGETS = ("steps", "evaluations")
"""Fields by which a solver's cost is chosen."""


class _Still:
    """A velocity of 0 that counts as several evaluations of a network."""

    def __init__(self, evaluations: int):
        self.evaluations = evaluations

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = {}) -> Tensor:
        return torch.zeros_like(x)


def with_evaluations(solver: Solver, nfe: int, each: int = 1, shape: Sequence[int] = (1, 1, 1)) -> Solver:
    """Return the same solver with as many steps as take ``nfe`` evaluations of a network for an image.

    They are counted, so that a solver of your own needs no more than a field ``steps``.

    >>> from flowlit.solvers import Heun
    >>> with_evaluations(Heun(1), 6)
    Heun(steps=3, rho=1.0, grid=None, r=1.0)

    Args:
        solver: a dataclass with a field ``steps`` or ``evaluations``; ``OneStep`` takes 1 anyway.
        nfe: evaluations for an image.
        each: evaluations that a call of the network is, see ``evaluations_of``.
        shape: of the noise, (c, h, w).

    Raises:
        FlowlitError: if no number of steps takes so many; with those next to it that can be had.
    """
    kind: Any = solver
    name = type(solver).__name__
    names = {field.name for field in fields(kind)} if is_dataclass(solver) else set[str]()
    budget = next((each for each in BUDGETS if each in names), None)
    if budget is None:
        if getattr(solver, "takes_average", False) and nfe == each:
            return solver
        raise FlowlitError(
            f"nfe is {nfe}, but {name} has no steps to choose by it; leave it out, or take another solver, "
            "e.g. Heun"
        )
    if nfe > MOST:
        raise FlowlitError(f"nfe is {nfe:,}; expected {MOST:,} at most")
    free: dict[str, Any] = {"grid": None} if "grid" in names else {}  # one that is given is for its own steps

    def count(number: int) -> int:
        probe = replace(kind, **{budget: number}, **free)
        return int(probe(_Still(each), torch.zeros(1, *shape)).nfe[0])

    numbers = range(1, nfe // each + 3)
    number = 1 + bisect_left(numbers, nfe, key=count)
    if count(number) != nfe:
        low = max(1, number - 1)
        raise FlowlitError(
            f"nfe is {nfe}, which {name} cannot have; its numbers next to it are {count(low)} and "
            f"{count(low + 1)}"
        )
    return replace(kind, **{budget: number})
