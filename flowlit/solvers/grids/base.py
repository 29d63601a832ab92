"""Shared by grids of times: what they are, and the lists that solvers and grids make of numbers alone."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod

from ...errors import FlowlitError
from ...ranges import Checked

MOST = 1_000_000
"""Steps of a solver at most, few enough to be listed."""


class TimeGrid(Checked, ABC):
    """Times between which a solver steps, from 0 (noise) to 1 (data).

    A grid that ends elsewhere says so: it ``stops_early``. All others are refused.
    """

    @property
    def stops_early(self) -> bool:
        """True if the last time is below 1, so that noise is left in the data, for a codec to forgive."""
        return False

    @abstractmethod
    def __call__(self, steps: int) -> list[float]:
        """Return steps + 1 increasing times, the first 0, the last 1, or below 1 if it ``stops_early``."""


def time_grid(steps: int, rho: float = 1.0, reverse: bool = False) -> list[float]:
    """Return steps + 1 times from 0 to 1 (1 to 0 in reverse), t_i = (i / steps)^(1 / rho).

    rho = 1 is uniform, rho > 1 dense near data, rho < 1 dense near noise.

    >>> time_grid(4)
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    if steps < 1 or rho <= 0:
        raise FlowlitError(f"time grid: expected steps >= 1 and rho > 0, found steps={steps}, rho={rho}")
    grid = [(i / steps) ** (1 / rho) for i in range(steps + 1)]
    return grid[::-1] if reverse else grid


def check_steps(steps: int) -> None:
    """Refuse more steps than a list of times should have.

    Raises:
        FlowlitError: with their number.
    """
    if steps > MOST:
        raise FlowlitError(f"steps is {steps:,}; expected {MOST:,} at most")


def check_grid(times: list[float], steps: int, stops_early: bool = False) -> None:
    """Refuse times that are not ``steps`` steps forward from 0 to 1, or to below 1 where they stop early.

    Raises:
        FlowlitError: with the number of steps that fits, or the times.
    """
    if len(times) != steps + 1:
        raise FlowlitError(
            f"time grid: {len(times)} times make {len(times) - 1} steps, found steps={steps}; "
            f"write steps: {len(times) - 1}, or list {steps + 1} times"
        )
    rises = all(earlier < later for earlier, later in itertools.pairwise(times))
    ends = times[0] == 0 and (0 < times[-1] < 1 if stops_early else times[-1] == 1)
    if not rises or not ends:
        last = "below 1" if stops_early else "1 (data)"
        raise FlowlitError(f"time grid: expected increasing times from 0 (noise) to {last}, found {times}")


def sigma_grid(steps: int, sigma_min: float, sigma_max: float, rho: float) -> list[float]:
    """Return steps noise levels from sigma_max to sigma_min, uniform in σ^(1 / rho), and 0.

    Karras et al. 2022 (2206.00364), eq. 5.
    """
    first = sigma_max ** (1 / rho)
    last = sigma_min ** (1 / rho)
    return [(first + i / max(steps - 1, 1) * (last - first)) ** rho for i in range(steps)] + [0.0]


def between(steps: int) -> list[float]:
    """Return steps - 1 shares from 0 to 1 for the times between the ends; a single one is in the middle."""
    if steps == 2:
        return [0.5]
    return [i / (steps - 2) for i in range(steps - 1)] if steps > 2 else []
