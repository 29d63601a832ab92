"""Shared by solvers on a grid of times: counted evaluations, and the march along the grid."""

from __future__ import annotations

import itertools
import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from .._support.nested import rows_of
from .._support.velocities import evaluate
from ..errors import FlowlitError, NotFinite
from ..ranges import PositiveFloat, PositiveInt
from ..ranges.reprs import OneLine
from ..ranges.tensors import check_start
from ..types import Codec, Cond, Observer, Solution, Solver, VelocityField, evaluations_of
from .grids import TimeGrid, check_grid, check_steps, time_grid

Step = Callable[["Counted", Tensor, Tensor, Tensor, Tensor], Tensor]
"""(v, x, v(x, t), t, t_next) -> x_next, with t and t_next (B,)."""


_unchecked = ContextVar("unchecked", default=False)


@contextmanager
def unchecked() -> Iterator[None]:
    """Let solvers return ends that are not finite: a look at them would wait for a GPU."""
    token = _unchecked.set(True)
    try:
        yield
    finally:
        _unchecked.reset(token)


class Counted(OneLine):
    """A velocity on a fixed condition that counts its evaluations per sample, ``nfe`` (B,)."""

    def __init__(self, velocity: VelocityField, cond: Cond, like: Tensor):
        self.velocity = velocity
        self.cond = cond
        self.nfe = torch.zeros(like.shape[0], dtype=torch.int64, device=like.device)

    def __call__(self, x: Tensor, t: Tensor, rows: Tensor | None = None) -> Tensor:
        """Evaluate at (x, t), which are the given rows of the batch (all of them by default)."""
        self.nfe[slice(None) if rows is None else rows] += evaluations_of(self.velocity)
        cond = self.cond if rows is None else rows_of(self.cond, rows)
        return evaluate(self.velocity, x, t.float(), cond).to(x.dtype)

    def solution(self, x: Tensor) -> Solution:
        """Return the end x (B, C, H, W) with its cost.

        Looks once at the end instead of at each velocity: NaN and infinity that came into x stay there. Not
        at all where it is ``unchecked``.

        Raises:
            NotFinite: saying how many samples have such values.
        """
        # a fake tensor has a shape without values: operations are being counted
        bad = 0 if _unchecked.get() or isinstance(x, FakeTensor) else non_finite(x)
        if bad:
            raise NotFinite(f"{bad} of {len(x)} generated images are not finite; the velocity is not")
        return Solution(x, self.nfe)


def non_finite(x: Tensor) -> int:
    """Count the samples of x (B, …) with a number that is not finite."""
    return int((~torch.isfinite(x)).flatten(1).any(1).sum())


def march(
    step: Step,
    velocity: VelocityField,
    x0: Tensor,
    grid: list[float],
    cond: Cond = {},
    observe: Observer | None = None,
) -> Solution:
    """Apply a one-step rule along a grid of times, from x0 (B, C, H, W) at the first of them."""
    x = x0 if x0.dtype == torch.float64 else x0.float()
    v = Counted(velocity, cond, x)
    times = [x.new_full((x.shape[0],), t) for t in grid]
    for t, t_next in itertools.pairwise(times):
        v_t = v(x, t)
        if observe is not None:
            observe(t, x, v_t)
        x = step(v, x, v_t, t, t_next)
    return v.solution(x)


RESERVED = ("sum", "mean", "rms", "per_dimension", "train")
"""Names that end tags already."""


def check_solvers(solvers: Mapping[str, Solver], codec: Codec) -> None:
    """Refuse names that could not stand in tags and files, an empty set, and ends that a codec would show.

    Raises:
        FlowlitError: naming the first that cannot.
    """
    if not solvers:
        raise FlowlitError("solvers is empty; expected at least one, e.g. {euler1: {class_path: Euler}}")
    for name, solver in solvers.items():
        fits = isinstance(name, str) and re.fullmatch(r"[\w-][\w.-]*", name)
        if not fits or name in RESERVED:
            raise FlowlitError(
                f"solver {name!r}: its name becomes part of tags; use letters, digits, _ - and, not first, "
                "dots (and no word like sum)"
            )
        check_end(name, solver, codec)


def check_end(name: str, solver: Solver, codec: Codec) -> None:
    """Refuse a solver that stops before t = 1 for a codec that does not forgive the noise left there.

    Raises:
        FlowlitError: with what fits.
    """
    grid = getattr(solver, "grid", None)
    if isinstance(grid, TimeGrid) and grid.stops_early and not codec.forgives_noise:
        raise FlowlitError(
            f"solver {name} stops before t = 1, and {type(codec).__name__} would show the noise left; "
            "take a grid to 1 (FScheduler: finish: true), or a codec of latents with forgives_noise"
        )


class CheckedSolver(Solver):
    """Solver whose call refuses arguments of another kind, and to run in reverse where it cannot."""

    one_way: ClassVar[str] = ""
    """Reason why it cannot run in reverse; empty if it can."""

    def __call__(
        self,
        velocity: VelocityField,
        x0: Tensor,
        cond: Cond = {},
        *,
        observe: Observer | None = None,
        reverse: bool = False,
    ) -> Solution:
        check_start(velocity, x0, cond, observe, reverse)
        if reverse and self.one_way:
            name = type(self).__name__
            raise FlowlitError(f"{name} {self.one_way} and cannot run in reverse; use RK45")
        return self._integrate(velocity, x0, cond, observe, reverse)

    @abstractmethod
    def _integrate(
        self, velocity: VelocityField, x0: Tensor, cond: Cond, observe: Observer | None, reverse: bool
    ) -> Solution:
        """Integrate from x0 (B, C, H, W), all arguments being sound."""


@dataclass
class GridSolver(CheckedSolver):
    """Solver on a fixed grid of times.

    Args:
        steps: intervals, at least 1.
        rho: warps the grid, see ``time_grid``; 1 is uniform.
        grid: times of one's own, e.g. ``flowlit.solvers.grids.Given``; None is ``Power(rho)``.
    """

    steps: PositiveInt
    rho: PositiveFloat = 1.0
    grid: TimeGrid | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        """Refuse a grid that does not fit before a run begins."""
        check_steps(self.steps)
        if self.grid is None:
            return
        if self.rho != 1:
            raise FlowlitError(f"time grid: rho={self.rho} is not used with grid={self.grid}; leave one out")
        check_grid(self.grid(self.steps), self.steps, self.grid.stops_early)

    def times(self, reverse: bool = False) -> list[float]:
        """Return steps + 1 times from 0 to 1, or from 1 to 0 in reverse; to below 1 if the grid says so."""
        if self.grid is None:
            return time_grid(self.steps, self.rho, reverse)
        times = self.grid(self.steps)
        return times[::-1] if reverse else times

    def _integrate(
        self, velocity: VelocityField, x0: Tensor, cond: Cond, observe: Observer | None, reverse: bool
    ) -> Solution:
        times = self.times(reverse)
        if self.grid is None or not self.grid.stops_early:
            return self._follow(velocity, x0, times, cond, observe)
        if reverse:
            raise FlowlitError(f"{self.grid} stops before t = 1 and cannot run in reverse; use RK45")
        solution = self._follow(velocity, x0, times, cond, observe)
        return solution._replace(x1=solution.x1 / times[-1])  # x1 + σ / α · noise: data, not as faint as x

    @abstractmethod
    def _follow(
        self, velocity: VelocityField, x0: Tensor, times: list[float], cond: Cond, observe: Observer | None
    ) -> Solution:
        """Integrate from x0 (B, C, H, W) along times, all arguments being sound."""


@dataclass
class SingleStep(GridSolver):
    """Solver that follows a one-step rule: each step starts from the last state alone."""

    @abstractmethod
    def rule(self, x0: Tensor) -> Step:
        """Return the one-step rule for a batch that starts from x0 (B, C, H, W)."""

    def _follow(
        self, velocity: VelocityField, x0: Tensor, times: list[float], cond: Cond, observe: Observer | None
    ) -> Solution:
        return march(self.rule(x0), velocity, x0, times, cond, observe)
