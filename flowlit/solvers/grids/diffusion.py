"""Grids of times on the steps of a diffusion in discrete steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ...errors import FlowlitError
from ...paths.diffusion import Tabulated
from ...ranges import PositiveFloat, PositiveInt
from .base import TimeGrid, sigma_grid, time_grid


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


@dataclass
class FScheduler(TimeGrid):
    """F-scheduler's times for teachers of latents, which stop early (2510.02390); see ``EarlyStop``.

    Of ``levels`` noise levels after Karras et al., from the diffusion's largest to its smallest, one is the
    end. Between its step and the noisiest the steps of the diffusion are uniform in step^(1 / power). On
    Stable Diffusion's the times are almost uniform. The paper's (levels, rho, level) are (8, 5, 6) for 5 and
    6 steps and (12, 7, 9) for 8 of Stable Diffusion, (12, 12, 10) for 8 of SDXL. Take ``Euler`` for 4 to 6
    steps, ``DPMSolver`` of order 2 for 7 and 8.

    Args:
        diffusion: of the teacher, ``flowlit.paths.DiscreteVP``.
        levels: of noise, from which the end is taken.
        rho: exponent by which these are spread.
        level: place of the end among them, from 0, the noisiest.
        power: exponent of the steps.
        finish: go to t = 1 in a last step, to the predicted data, so that nothing is stopped early: for
            pixels, and other codecs that do not forgive noise.
    """

    diffusion: Tabulated
    levels: PositiveInt = 8
    rho: PositiveFloat = 5.0
    level: PositiveInt = 6
    power: PositiveFloat = 1.2
    finish: bool = False

    def __post_init__(self) -> None:
        """Refuse an end that is none of the levels, or the last, which is t = 1 but for a little."""
        if self.level > self.levels - 2:
            raise FlowlitError(
                f"FScheduler: level is {self.level}; expected 1 to {self.levels - 2}, as levels is "
                f"{self.levels}"
            )

    @property
    def stops_early(self) -> bool:
        return not self.finish

    def __call__(self, steps: int) -> list[float]:
        steps = steps - 1 if self.finish else steps
        if steps < 1:
            raise FlowlitError("FScheduler: with finish, a single step goes from noise to data; take Power")
        low, high = self.diffusion.range
        end = sigma_grid(self.levels, low, high, self.rho)[self.level]
        first, last = (self._steps(ratio) ** (1 / self.power) for ratio in (high, end))
        places = [(first + u * (last - first)) ** self.power for u in time_grid(steps)[1:]]
        ratios = self.diffusion.ratios()
        levels = np.exp(np.interp(places, np.arange(len(ratios)), np.log(ratios)))
        return [0.0, *(1 / (1 + levels)).tolist(), *[1.0] * self.finish]

    def _steps(self, ratio: float) -> float:
        """Return the place between steps where σ / α is a number."""
        return float(self.diffusion.time_input(torch.tensor([ratio], dtype=torch.float64)))
