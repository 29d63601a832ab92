"""Grids of times in closed form, and times as they are listed."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...errors import FlowlitError
from ...ranges import Float, PositiveFloat, Share
from .base import TimeGrid, between, check_grid, time_grid


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
        return [0.0, *(1 / (1 + math.exp(last * (1 - 2 * u))) for u in between(steps)), 1.0]


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
        levels = [(first + u * (last - first)) ** self.rho for u in between(steps)]
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
class EarlyStop(TimeGrid):
    """Times of another grid, shortened to an end before t = 1, for codecs that forgive the noise left there.

    The decoder of an autoencoder smooths a little noise away, and spares the steps that would (2510.02390).
    What a solver returns is its last state over its time, data + (1 - t) / t · noise. Codecs that do not
    have ``forgives_noise``, as ``Pixels``, are refused: their images would be visibly noisy.

    Args:
        end: the last time, below 1; 0.87 to 0.88 in the paper.
        grid: shortened by the factor ``end``; None is uniform.
    """

    end: Share
    grid: TimeGrid | None = None

    def __post_init__(self) -> None:
        """Refuse an end that is none, and a grid that stops early already."""
        if self.end == 1 or (self.grid is not None and self.grid.stops_early):
            raise FlowlitError(f"EarlyStop: expected an end below 1 of a grid that goes to 1, found {self}")

    @property
    def stops_early(self) -> bool:
        return True

    def __call__(self, steps: int) -> list[float]:
        times = (self.grid or Power())(steps)
        check_grid(times, steps)
        return [self.end * t for t in times]
