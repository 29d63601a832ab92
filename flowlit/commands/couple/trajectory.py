"""States of a solver on its way, which ``flowlit couple --times`` keeps beside the ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...couplings.store.schema import MOST_STATES, unfit_times
from ...errors import FlowlitError
from ...modules import FlowModule
from .options import CoupleOptions

NEAR = 1e-3
"""Difference of a time from the solver's, at most."""


class Stops(NamedTuple):
    """Times at which the states of a solver are kept."""

    times: list[float]
    """Of the solver, the last 1."""

    places: list[int]
    """Numbers of the steps that begin there, without the last."""

    steps: int
    """Of the solver."""


class Watch:
    """Observer of a solver that keeps its states at some of its times."""

    def __init__(self, stops: Stops):
        self.stops = stops
        self.seen = 0
        self.states: list[Tensor] = []

    def __call__(self, t: Tensor, x: Tensor, v: Tensor) -> None:
        if self.seen in self.stops.places:
            self.states.append(x.float())
        self.seen += 1

    def path(self) -> Tensor:
        """Return the states, (B, K - 1, C, H, W).

        Raises:
            FlowlitError: for a solver that did not stop at each of its times.
        """
        if self.seen != self.stops.steps:
            raise FlowlitError(
                f"couple: the solver began {self.seen} steps, and its grid has {self.stops.steps}; expected "
                "one that stops at each of its times, e.g. flowlit.solvers.Heun"
            )
        return torch.stack(self.states, 1)


def stops_of(model: FlowModule, options: CoupleOptions) -> Stops | None:
    """Return where states of the first solver of a model are kept; None for its end alone.

    Raises:
        FlowlitError: for times that do not increase to 1, or are not the solver's.
    """
    given = options.times
    if given is None or given == [1]:
        return None
    if not given or unfit_times(given) or len(given) > MOST_STATES:
        raise FlowlitError(
            f"couple: times are {_short(given)}; expected at most {MOST_STATES}, which increase from above 0 "
            "to 1"
        )
    if options.origin != "noise":
        raise FlowlitError(
            f"couple: --origin {options.origin} has no states between its ends; drop --times, or start from "
            "noise"
        )
    solver: Any = next(iter(model.solvers.values()))
    if not callable(getattr(solver, "times", None)):
        raise FlowlitError(
            f"couple: {type(solver).__name__} has no grid of times; expected a solver of steps for --times, "
            "e.g. flowlit.solvers.Heun"
        )
    grid = solver.times()
    nearest = [min(range(1, len(grid)), key=lambda k: abs(grid[k] - time)) for time in given]
    far = [time for time, k in zip(given, nearest, strict=True) if abs(grid[k] - time) > NEAR]
    if far or len(set(nearest)) < len(nearest):
        raise FlowlitError(
            f"couple: times are {_short(given)}, but those of {type(solver).__name__} are "
            f"{_short(grid[1:])}; choose among them"
        )
    return Stops([grid[k] for k in nearest], nearest[:-1], len(grid) - 1)


def _short(times: Sequence[float]) -> str:
    text = ", ".join(f"{time:.4g}" for time in times[:17])
    return text + (f" … {len(times)} in all" if len(times) > 17 else "")
