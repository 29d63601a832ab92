"""Grids of times and of noise levels."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from ..errors import FlowlitError
from ..paths.diffusion import Tabulated
from ..ranges import Checked, Float, PositiveFloat

MOST = 1_000_000
"""Steps of a solver at most, few enough to be listed."""


class TimeGrid(Checked, ABC):
    """Times between which a solver steps, from 0 (noise) to 1 (data)."""

    @abstractmethod
    def __call__(self, steps: int) -> list[float]:
        """Return steps + 1 increasing times, the first 0 and the last 1."""


@dataclass
class Power(TimeGrid):
    """Times (i / steps)^(1 / rho): uniform for rho = 1, dense near data above 1, near noise below 1."""

    rho: PositiveFloat = 1.0

    def __call__(self, steps: int) -> list[float]:
        return time_grid(steps, self.rho)


@dataclass
class Quadratic(TimeGrid):
    """Times 1 - (1 - i / steps)^power, dense near data: DEIS's grid for power 2 (2204.13902).

    Not to be confused with ``Power(2)``, the square root of i / steps.
    """

    power: PositiveFloat = 2.0

    def __call__(self, steps: int) -> list[float]:
        return [1 - (1 - u) ** self.power for u in time_grid(steps)]


@dataclass
class LogSNR(TimeGrid):
    """Times uniform in ln(t / (1 - t)) between a margin and 1 - margin, with 0 and 1 beside them.

    DPM-Solver's grid (2206.00927), for diffusions of small images. On the straight path begin
    with uniform times.
    """

    margin: PositiveFloat = 0.02

    def __post_init__(self) -> None:
        """Refuse a margin that leaves nothing in between."""
        if self.margin >= 0.5:
            raise FlowlitError(f"LogSNR: margin is {self.margin}; expected a distance to both ends below 0.5")

    def __call__(self, steps: int) -> list[float]:
        last = math.log1p(-self.margin) - math.log(self.margin)
        return [0.0, *(1 / (1 + math.exp(last * (1 - 2 * u))) for u in _between(steps)), 1.0]


@dataclass
class Karras(TimeGrid):
    """Times 1 / (1 + σ) of EDM's noise levels, uniform in σ^(1 / rho), and 0 and 1 (2206.00364)."""

    sigma_min: PositiveFloat = 0.002
    sigma_max: PositiveFloat = 80.0
    rho: PositiveFloat = 7.0

    def __post_init__(self) -> None:
        """Refuse levels that do not fall."""
        if self.sigma_min >= self.sigma_max:
            raise FlowlitError(f"Karras: expected sigma_min < sigma_max, found {self}")

    def __call__(self, steps: int) -> list[float]:
        first = self.sigma_max ** (1 / self.rho)
        last = self.sigma_min ** (1 / self.rho)
        levels = [(first + u * (last - first)) ** self.rho for u in _between(steps)]
        return [0.0, *(1 / (1 + level) for level in levels), 1.0]


@dataclass
class Shifted(TimeGrid):
    """Uniform times moved towards noise by a shift above 1, towards data below: 1 - s u / (1 + (s - 1) u).

    u is the uniform share of noise, 1 - i / steps, and s the shift, a ratio of resolutions in Esser et
    al. 2024 (2403.03206), eq. 23.
    """

    shift: PositiveFloat = 3.0

    def __call__(self, steps: int) -> list[float]:
        s = self.shift
        return [1 - s * (1 - u) / (1 + (s - 1) * (1 - u)) for u in time_grid(steps)]


@dataclass
class Sine(TimeGrid):
    """Times sin²(π i / 2 steps), dense at both ends.

    Its first and last step shrink with the square of their number, so that solvers which take those by
    Euler's rule keep their order of convergence.
    """

    def __call__(self, steps: int) -> list[float]:
        return [0.0, *(math.sin(math.pi * u / 2) ** 2 for u in time_grid(steps)[1:-1]), 1.0]


@dataclass
class Given(TimeGrid):
    """Times as they are listed, for instance those that a search for a network and a budget has returned.

    >>> Given([0, 0.1, 0.4, 1])(steps=3)
    [0.0, 0.1, 0.4, 1.0]

    Args:
        times: one more than the solver's ``steps``, increasing from 0 to 1.
    """

    times: list[Float]

    def __post_init__(self) -> None:
        """Make a list of floats, so that equal grids compare equal, also after a file."""
        self.times = [float(time) for time in self.times]

    def __call__(self, steps: int) -> list[float]:
        return self.times


@dataclass
class DiffusionSteps(TimeGrid):
    """Times of a diffusion's steps, t = 1 / (1 + σ / α), or of some of them at equal distances; then 1.

    The noisiest step's time is 0: there is nothing but noise at either. With ``Euler`` it is the
    deterministic sampler (DDIM) on that diffusion's own steps; for ResShift: ``diffusion: {class_path:
    flowlit.paths.ResShift}`` and its number of steps.
    """

    diffusion: Tabulated

    def __call__(self, steps: int) -> list[float]:
        times = self.diffusion.times()[::-1]
        if steps > len(times):
            raise FlowlitError(f"time grid: {self.diffusion} has {len(times)} steps, found steps={steps}")
        places = [round(i * len(times) / steps) for i in range(1, steps)]
        return [0.0, *(float(times[place]) for place in places), 1.0]


def _between(steps: int) -> list[float]:
    """Return steps - 1 shares from 0 to 1 for the times between the ends; a single one is in the middle."""
    if steps == 2:
        return [0.5]
    return [i / (steps - 2) for i in range(steps - 1)] if steps > 2 else []


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


def check_grid(times: list[float], steps: int) -> None:
    """Refuse times that are not ``steps`` steps forward from 0 to 1.

    Raises:
        FlowlitError: with the number of steps that fits, or the times.
    """
    if len(times) != steps + 1:
        raise FlowlitError(
            f"time grid: {len(times)} times make {len(times) - 1} steps, found steps={steps}; "
            f"write steps: {len(times) - 1}, or list {steps + 1} times"
        )
    rises = all(earlier < later for earlier, later in itertools.pairwise(times))
    if not rises or (times[0], times[-1]) != (0, 1):
        raise FlowlitError(f"time grid: expected increasing times from 0 (noise) to 1 (data), found {times}")


def sigma_grid(steps: int, sigma_min: float, sigma_max: float, rho: float) -> list[float]:
    """Return steps noise levels from sigma_max to sigma_min, uniform in σ^(1 / rho), and 0.

    Karras et al. 2022 (2206.00364), eq. 5.
    """
    first = sigma_max ** (1 / rho)
    last = sigma_min ** (1 / rho)
    return [(first + i / max(steps - 1, 1) * (last - first)) ** rho for i in range(steps)] + [0.0]
