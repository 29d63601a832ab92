"""Adams' multistep solver: one evaluation a step, since each step uses the velocities of those before it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import FlowlitError
from ..types import Cond, Observer, Solution, VelocityField
from .base import Counted, GridSolver

LAST = 2 / 3
"""Where the last step evaluates: Radau's node."""


def adams_weights(times: Sequence[float], start: float, end: float) -> tuple[float, ...]:
    """Return weights of values at up to four times, whose sum integrates their polynomial from start to end.

    Gauss's rule with two points integrates polynomials up to degree 3 exactly; float64. With start the newest
    time these are the weights of Adams and Bashforth, with end the newest those of Adams and Moulton.

    >>> adams_weights([0.0, 1.0], 0.0, 1.0)
    (0.5, 0.5)
    """
    middle = (start + end) / 2
    half = (end - start) / 2
    points = (middle - half / math.sqrt(3), middle + half / math.sqrt(3))
    others = [[other for other in times if other != time] for time in times]
    return tuple(
        half * sum(math.prod((point - other) / (time - other) for other in different) for point in points)
        for time, different in zip(times, others, strict=True)
    )


def adams(
    velocity: VelocityField,
    x0: Tensor,
    grid: list[float],
    cond: Cond = {},
    *,
    order: int = 3,
    observe: Observer | None = None,
) -> Solution:
    """Predict x at the end of each interval of the grid, evaluate there once, and correct x by it (PEC).

    The prediction follows the polynomial through the last ``order - 1`` velocities, the correction that
    through these and the new one. The first interval is a step of Euler's, corrected by the trapezium. The
    last one is evaluated at two thirds, not at its end, where a velocity is hardly trained (t = 1), or not
    defined. The observer is shown the predictions, at which the velocities were evaluated. Hairer, Nørsett
    and Wanner, Solving ODEs I, sections III.1 and III.5.

    Args:
        velocity: which to follow.
        x0: (B, C, H, W), at the first time of the grid.
        grid: times, all different, from 0 to 1 or back.
        cond: conditions of the samples.
        order: of convergence, 2 or 3.
        observe: called at the start of each interval.
    """
    x = x0 if x0.dtype == torch.float64 else x0.float()
    predicted = x
    v = Counted(velocity, cond, x)
    times = [grid[0]]
    values = [v(x, x.new_full((x.shape[0],), grid[0]))]
    for start, end in itertools.pairwise(grid):
        if observe is not None:
            observe(x.new_full((x.shape[0],), start), predicted, values[-1])
        time = end if end != grid[-1] else start + LAST * (end - start)
        predicted = _advance(x, adams_weights(times, start, time), values)
        times = [*times, time]
        values = [*values, v(predicted, x.new_full((x.shape[0],), time))]
        x = _advance(x, adams_weights(times, start, end), values)
        times = times[1 - order :]
        values = values[1 - order :]
    return v.solution(x)


def _advance(x: Tensor, weights: Sequence[float], values: Sequence[Tensor]) -> Tensor:
    """x + Σ weight · value, rounded after each operation: a sample's bits are its own in any batch."""
    return x + sum(weight * value for weight, value in zip(weights, values, strict=True))


@dataclass
class Adams(GridSolver):
    """Adams' predictor and corrector on a fixed grid: the cheapest way to pairs. NFE = steps + 1.

    Use it where a trained teacher makes couplings: on the digits, 12 steps are as good as RK45 at 1e-3, and
    64 as good as RK45 at 1e-5, with a fifth of its evaluations (docs/performance.md). It has no estimate of
    its error: try twice as many steps, and see how far the ends move. Not to be confused with
    ``torch.optim.Adam``.

    Args:
        steps: intervals, at least 1; a single one is Ralston's rule.
        rho: warps the grid, see ``time_grid``; 1 is uniform, above 1 the first step is the widest, although
            it is of order 2.
        grid: times of one's own, e.g. ``flowlit.solvers.grids.Given``; None is ``Power(rho)``.
        order: of convergence. Take 2 for a flow that turns sharply, as the exact flow of a few images does. A
            higher one would gain little, since networks ripple in time; of order 1 is ``Euler``, of 4
            ``RK4``.
    """

    order: Literal[2, 3] = 3

    def __post_init__(self) -> None:
        """Refuse steps that are too small for float64."""
        super().__post_init__()
        if len(set(self.times())) <= self.steps:
            raise FlowlitError(
                f"Adams: rho={self.rho} makes some of {self.steps} steps empty; take one nearer to 1"
            )

    def _follow(
        self, velocity: VelocityField, x0: Tensor, times: list[float], cond: Cond, observe: Observer | None
    ) -> Solution:
        return adams(velocity, x0, times, cond, order=self.order, observe=observe)
