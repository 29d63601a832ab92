"""Images between two samples."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch

from ..._support.nested import rows_of
from ...errors import FlowlitError
from ...paths import interpolate_noise
from ...ranges import PositiveInt
from ...types import Noise
from .base import Evaluation
from .grids import check_noise, first_noises, generate
from .pictures import show


class Interpolations(Evaluation):
    """Draw the images that solvers make of noise between the noises 2k and 2k + 1, one pair a row.

    Each row goes from the first to the second on a quarter of a circle, so that all its noise is as likely as
    theirs, under the condition of the first. As ``interpolations/<solver>`` in the loggers, and as PNG in the
    run's folder.

    Args:
        num: pairs, so rows.
        steps: pictures in a row, both ends among them.
        solver: only this one of the module's; None is all.
    """

    def __init__(self, num: PositiveInt = 6, steps: PositiveInt = 9, solver: str | None = None):
        self.num = num
        self.steps = steps
        self.solver = solver

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        if self.steps < 2:
            raise FlowlitError(
                f"Interpolations: a row has two ends, so steps is at least 2; found {self.steps}"
            )
        who = f"Interpolations (two for each of {self.num} rows)"
        noise = check_noise(trainer, stage, who, 2 * self.num)
        if noise is not None and self.solver is not None and self.solver not in pl_module.solvers:
            raise FlowlitError(
                f"Interpolations: no solver is called {self.solver!r}; expected one of "
                f"{', '.join(pl_module.solvers)}"
            )

    def _between(self, noise: Noise) -> Noise:
        alpha = torch.linspace(0, 1, self.steps, device=noise.x0.device).repeat(self.num)
        first, second = (torch.arange(k, 2 * self.num, 2).repeat_interleave(self.steps) for k in (0, 1))
        x0 = interpolate_noise(noise.x0[first], noise.x0[second], alpha)
        return rows_of(noise, first)._replace(x0=x0)

    def end(self, trainer: pl.Trainer, module: Any) -> None:
        noise = self._between(first_noises(trainer, module, 2 * self.num))
        for name in module.solvers if self.solver is None else [self.solver]:
            images = generate(trainer, module, name, noise)
            show(trainer, f"interpolations/{name}", images, self.steps)
