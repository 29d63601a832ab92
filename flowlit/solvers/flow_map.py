"""Jumps of a flow map: a few evaluations, each of the average velocity up to the next time."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import FlowlitError
from ..paths.straight import endpoint, expand, interpolate
from ..ranges import PositiveInt
from ..types import Cond, Observer, Solution, VelocityField, reads_of
from .base import Counted, GridSolver
from .stochastic import noise_stream


@dataclass
class Jumps(GridSolver):
    """x ← x + (t' - t) u(x, t, t') along a grid of times, by a network with a second time. NFE = steps.

    Exact for any grid if u is the average velocity of the flow; one jump by default. Not to be confused with
    ``Euler``, which takes u(x, t, t), the velocity.

    Args:
        steps: jumps.
        renoise: jump to the data each time, and go back to the next time with fresh noise: multistep sampling
            of consistency models (2303.01469, algorithm 1).
        rho, grid: times, see ``GridSolver``.
    """

    steps: PositiveInt = 1
    renoise: bool = False

    one_way: ClassVar[str] = "goes from noise to data"

    def _follow(
        self, velocity: VelocityField, x0: Tensor, times: list[float], cond: Cond, observe: Observer | None
    ) -> Solution:
        self._check(velocity)
        x = x0 if x0.dtype == torch.float64 else x0.float()
        draw = noise_stream(x0) if self.renoise else None
        u = Counted(velocity, cond, x)
        grid = [torch.full((x.shape[0],), t, dtype=torch.float32, device=x.device) for t in times]
        for t, t_next in itertools.pairwise(grid):
            u.cond = {**cond, "r": grid[-1] if self.renoise else t_next}
            average = u(x, t)
            if observe is not None:
                observe(t, x, average)
            if draw is None:
                x = x + expand(t_next.to(x.dtype) - t.to(x.dtype), x) * average
            else:
                data = endpoint(x, average, t)
                x = data if t_next is grid[-1] else interpolate(draw(), data, t_next)
        return u.solution(x)

    def _check(self, velocity: VelocityField) -> None:
        """Refuse a network of one time, and data to jump to that are none."""
        if self.renoise and self.grid is not None and self.grid.stops_early:
            raise FlowlitError(f"Jumps: renoise jumps to t = 1, where {self.grid} does not end; take another")
        reads = reads_of(velocity)
        if reads is not None and "r" not in reads:
            name = type(getattr(velocity, "velocity", velocity)).__name__
            raise FlowlitError(
                f"Jumps: {name} has no second time, so that its jumps would be Euler's; give it second_time: "
                "true, or take flowlit.solvers.Euler (of a consistency model, ReNoise)"
            )
