"""Regression onto solved trajectories: u(x_i, t_i, t_j) = (x_j - x_i) / (t_j - t_i)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from ... import rng
from ...errors import FlowlitError
from ...paths.straight import expand
from ...ranges import PositiveInt
from ...types import Cond, Distance, Pair, Solver, VelocityField
from ..intervals import ToData
from .averages import average, repeated
from .base import FlowMapObjective

Between = Literal["any", "next", "end"]


def states(guide: VelocityField, solver: Any, x0: Tensor, cond: Cond = {}) -> tuple[Tensor, Tensor]:
    """Return times (K + 1,) of a solver on a grid, and its states (K + 1, B, C, H, W) from x0.

    Without gradients.
    """
    path: list[Tensor] = []
    with torch.no_grad():
        end = solver(guide, x0, cond, observe=lambda t, x, v: path.append(x)).x1
    times = torch.tensor(solver.times(), dtype=torch.float32, device=x0.device)
    return times, torch.stack([*path, end])


def stored_states(pair: Pair) -> tuple[Tensor, Tensor]:
    """Return times (K + 1, B) of a trajectory with the pair's ends, and its states (K + 1, B, C, H, W).

    ``cond["path"]`` (B, K - 1, C, H, W) has the states between, ``cond["times"]`` (B, K) the times after 0.

    Raises:
        FlowlitError: where it has none.
    """
    _check_states(pair.cond)
    between = pair.cond["path"].transpose(0, 1)
    times = pair.cond["times"].transpose(0, 1)
    return torch.cat([torch.zeros_like(times[:1]), times]), torch.cat([pair.x0[None], between, pair.x1[None]])


def _check_states(cond: Cond) -> None:
    if not {"path", "times"} <= cond.keys():
        raise FlowlitError(
            "OnTrajectories: pairs without states, and no guide to solve for them; read stored ones "
            "(data.coupling: flowlit.couplings.Cached, with states), or give guide and solver"
        )


def trajectory_regression_loss(
    velocity: VelocityField,
    path: Tensor,
    times: Tensor,
    i: Tensor,
    j: Tensor,
    cond: Cond = {},
    *,
    distance: Distance,
) -> Tensor:
    """d( u(x_i, t_i, t_j), (x_j - x_i) / (t_j - t_i) ), (B,), for places i < j (B,) on a path.

    ``path`` (K + 1, B, C, H, W) has the states at ``times`` (K + 1,), or (K + 1, B). No gradient but of u.
    Consistency mid-training (2509.24526); AccVideo (2503.19462) for j = i + 1; for i = 0 and t_j = 1 it is
    distillation.
    """
    rows = torch.arange(len(i), device=i.device)
    start = path[i, rows]
    t, s = (times[place] if times.dim() == 1 else times[place, rows] for place in (i, j))
    slope = (path[j, rows] - start) / expand((s - t).to(start.dtype), start)
    return distance(average(velocity, start, t, s, cond), slope.detach())


class OnTrajectories(FlowMapObjective):
    """Regress jumps onto trajectories of a guide, stored or solved in each step from the noise of pairs.

    Between a velocity and a flow map: there is no derivative, no target of its own, and nothing to schedule.
    A few thousand steps of it are a start for ``MeanFlow`` and ``Lagrangian``. ``draws`` of its intervals are
    learned from. Without guide and solver they come from a store: ``flowlit couple --times``, and
    ``flowlit.couplings.Cached`` with ``states``. Solved, they cost the solver's evaluations of the guide for
    each row.

    Args:
        guide: the velocity that is solved; frozen, absent from checkpoints. None takes stored states.
        solver: on a grid, e.g. ``{class_path: flowlit.solvers.Heun, init_args: {steps: 8}}``.
        between: "any" two of its times, a time and the "next" (key points), or a time and the "end", which is
            for networks of one time, too.
        draws: intervals of each trajectory in a step.
        distance: between average velocities; None is the mean squared error.

    Raises:
        FlowlitError: for a solver without a grid of times, or a guide or solver without the other.
    """

    keeps = frozenset({"path", "times"})

    def __init__(
        self,
        guide: nn.Module | None = None,
        solver: Solver | None = None,
        between: Between = "any",
        draws: PositiveInt = 1,
        distance: Distance | None = None,
    ):
        if (guide is None) != (solver is None):
            given, missing = ("solver", "guide") if guide is None else ("guide", "solver")
            raise FlowlitError(
                f"OnTrajectories: a {given} without a {missing}; expected both, or neither for stored states"
            )
        if solver is not None and not callable(getattr(solver, "times", None)):
            raise FlowlitError(
                f"OnTrajectories: {type(solver).__name__} has no grid of times; expected a solver of steps, "
                "e.g. flowlit.solvers.Heun"
            )
        if solver is not None and solver.times()[-1] != 1:  # type: ignore[attr-defined]
            raise FlowlitError(f"OnTrajectories: {solver} stops before t = 1; take a grid that goes there")
        super().__init__(ToData() if between == "end" else None, distance, guide)
        self.solver = solver
        self.between: Between = between
        self.draws = draws

    def forward(self, velocity: VelocityField, pair: Pair) -> dict[str, Tensor]:
        """Return {"loss": ()}."""
        cond = self.conditions(pair.cond)
        if self.guide is None:
            times, path = stored_states(pair)
        else:
            times, path = states(self.guide, self.solver, pair.x0, cond)
        velocity = repeated(velocity, pair.x0)
        rows = torch.arange(len(pair.x0), device=pair.x0.device)
        losses = []
        for _ in range(self.draws):
            i, j = self.places(len(pair.x0), len(times) - 1, pair.x0.device)
            loss = trajectory_regression_loss(velocity, path, times, i, j, cond, distance=self.distance)
            self.report(times[i] if times.dim() == 1 else times[i, rows], loss)
            losses.append(loss.mean())
        return {"loss": torch.stack(losses).mean()}

    def conditions(self, cond: Cond) -> Cond:
        """Return the conditions (B, …) of the data that the network gets: all but the states.

        Raises:
            FlowlitError: where there are none, and no guide.
        """
        if self.guide is None:
            _check_states(cond)
        return super().conditions(cond)

    def places(self, n: int, steps: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Draw places i < j (n,) among 0 … steps; of "any" two, all pairs equally often."""
        if self.between == "any":
            first = rng.randint(steps + 1, n, device)
            second = (first + 1 + rng.randint(steps, n, device)) % (steps + 1)
            return torch.minimum(first, second), torch.maximum(first, second)
        i = rng.randint(steps, n, device)
        return i, i + 1 if self.between == "next" else torch.full_like(i, steps)

    def loss(self, velocity: VelocityField, pair: Pair, t: Tensor, s: Tensor) -> Tensor:
        """Refuse intervals, (B,), that are not at the states' times."""
        raise FlowlitError("OnTrajectories draws its intervals from the times of states")
