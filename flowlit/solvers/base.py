"""What solvers on a grid of times share: counted evaluations, and the march along the grid."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import FlowlitError
from ..types import Cond, Observer, Solution, Solver, VelocityField, evaluations_of
from .grids import time_grid

Step = Callable[["Counted", Tensor, Tensor, Tensor, Tensor], Tensor]
"""(v, x, v(x, t), t, t_next) -> x_next, with t and t_next (B,)."""


class Counted:
    """A velocity on a fixed condition that counts its evaluations per sample."""

    def __init__(self, velocity: VelocityField, cond: Cond, like: Tensor):
        self.velocity = velocity
        self.cond = cond
        self.nfe = torch.zeros(len(like), dtype=torch.int64, device=like.device)

    def __call__(self, x: Tensor, t: Tensor, rows: Tensor | None = None) -> Tensor:
        """Evaluate at (x, t), which are the given rows of the batch (all of them by default)."""
        self.nfe[slice(None) if rows is None else rows] += evaluations_of(self.velocity)
        cond = self.cond if rows is None else {key: value[rows] for key, value in self.cond.items()}
        return self.velocity(x, t.float(), cond).to(x.dtype)


def march(
    step: Step,
    velocity: VelocityField,
    x0: Tensor,
    grid: list[float],
    cond: Cond = {},
    observe: Observer | None = None,
) -> Solution:
    """Apply a one-step rule along a grid of times."""
    x = x0 if x0.dtype == torch.float64 else x0.float()
    v = Counted(velocity, cond, x)
    times = [x.new_full((len(x),), t) for t in grid]
    for t, t_next in itertools.pairwise(times):
        v_t = v(x, t)
        if observe is not None:
            observe(t, x, v_t)
        x = step(v, x, v_t, t, t_next)
    return Solution(x, v.nfe)


@dataclass
class _GridSolver(Solver):
    """Shared by all solvers on a fixed grid: ``steps`` intervals, warped by ``rho`` (see ``time_grid``)."""

    steps: int
    rho: float = 1.0
    reversible: ClassVar[bool] = True

    @abstractmethod
    def rule(self, x0: Tensor) -> Step:
        """Return the one-step rule, given the batch it starts from."""

    def __call__(
        self,
        velocity: VelocityField,
        x0: Tensor,
        cond: Cond = {},
        *,
        observe: Observer | None = None,
        reverse: bool = False,
    ) -> Solution:
        if reverse and not self.reversible:
            raise FlowlitError(
                f"{type(self).__name__} draws noise and cannot run in reverse; use an ODE solver"
            )
        return march(self.rule(x0), velocity, x0, time_grid(self.steps, self.rho, reverse), cond, observe)
