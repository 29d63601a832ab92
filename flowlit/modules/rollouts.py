"""Comparison of the steps that a generator trains with and those that it generates with."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import FlowlitError
from ..objectives import CombinedGame, Rollout, SampleObjective
from ..solvers import Euler, ReNoise
from ..types import Objective, Solver


def check_solvers(objective: Objective, solvers: Mapping[str, Solver]) -> None:
    """Refuse to train a generator of some steps if no solver takes the same.

    Raises:
        FlowlitError: with the solver that fits.
    """
    if not isinstance(objective, (SampleObjective, CombinedGame)):
        return
    rollout = objective.rollout or Rollout(1)
    if not any(takes_steps(solver, rollout) for solver in solvers.values()):
        step = "step" if rollout.k == 1 else "steps"
        raise FlowlitError(
            f"the generator trains with {rollout.k} {step}, renoise: {rollout.renoise}, but none of the "
            f"solvers takes the same: {dict(solvers)}; write model.solvers: {fitting(rollout)}"
        )


def takes_steps(solver: Solver, rollout: Rollout) -> bool:
    """Compare times and way of going on; a single step is the same for all."""
    if not isinstance(solver, (Euler, ReNoise)):
        return False
    if isinstance(solver, Euler):
        way = "ode"
    else:
        way = "fresh" if solver.fresh else "fixed"
    times = solver.times()
    alike = len(times) == rollout.k + 1 and all(
        abs(one - other) < 1e-6 for one, other in zip(times, rollout.times, strict=True)
    )
    return alike and (rollout.k == 1 or way == rollout.renoise)


def fitting(rollout: Rollout) -> str:
    """Return the solver of a roll-out as YAML."""
    ode = rollout.k == 1 or rollout.renoise == "ode"
    arguments = f"steps: {rollout.k}" + ("" if ode or rollout.renoise == "fresh" else ", fresh: false")
    if rollout.times != Rollout(rollout.k).times:
        grid = f"{{class_path: flowlit.solvers.grids.Given, init_args: {{times: {rollout.times}}}}}"
        arguments += f", grid: {grid}"
    name = "Euler" if ode else "ReNoise"
    return (
        f"{{{name.lower()}{rollout.k}: {{class_path: flowlit.solvers.{name}, init_args: {{{arguments}}}}}}}"
    )
