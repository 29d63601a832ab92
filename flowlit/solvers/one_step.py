"""One step of an average velocity: the end of a whole flow, or of a part of it, from its start alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..ranges import Probability
from ..types import Cond, Observer, Solution, VelocityField
from .base import CheckedSolver, Counted


@dataclass
class OneStep(CheckedSolver):
    """x0 + v(x0, t), where the network's v(x0, t) is the average velocity from 0 to t. NFE = 1.

    For students of ``flowlit.objectives.TrajectoryDistillation``, whose t is a knob: at 0 the result is the
    mean of all images that fit the condition, at 1 one of them (OFTSR, 2412.09465). For super-resolution it
    goes from fidelity to realism. Not to be confused with ``Euler(1)``, which is t = 0.
    """

    t: Probability = 1.0

    takes_average: ClassVar[bool] = True
    """The network is an average velocity for it, and no field; what objectives that train one look for."""

    one_way: ClassVar[str] = "goes from the start to an image"

    def _integrate(
        self, velocity: VelocityField, x0: Tensor, cond: Cond, observe: Observer | None, reverse: bool
    ) -> Solution:
        x = x0 if x0.dtype == torch.float64 else x0.float()
        average = Counted(velocity, cond, x)
        v = average(x, torch.full((x.shape[0],), self.t, device=x.device))
        if observe is not None:
            observe(torch.zeros(x.shape[0], device=x.device), x, v)
        return average.solution(x + v)
