"""DEIS on the straight path, its integrals in closed form. Zhang and Chen 2022 (2204.13902)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor

from ..errors import FlowlitError
from ..types import Cond, Observer, Solution, VelocityField
from .base import GridSolver
from .exponential_multistep import ExponentialMultistep, StepRule
from .exponential_singlestep import march_evaluated, rho_runge_kutta


@dataclass
class DEIS(ExponentialMultistep):
    """DEIS's Adams-Bashforth rules: a prediction's polynomial in time (tAB), or in noise over signal (ρAB).

    tAB of the velocity are the plain Adams-Bashforth rules, exact at both ends. NFE = steps.

    Args:
        steps: intervals, at least 1.
        rho: warps the grid, see ``time_grid``.
        grid: times of one's own; None is ``Power(rho)``.
        order: degree of the polynomial, 0 to 3, one below its evaluations; 0 is ``Euler``.
        prediction: "velocity", "data" or "noise"; the paper's is "noise".
        variable: of the polynomial, "time" or "rho" (signal over noise for "data").
        mean: of the data, for 1-rectified flows; spares the evaluation at noise.
    """

    order: Literal[0, 1, 2, 3] = 2
    prediction: Literal["velocity", "data", "noise"] = "velocity"
    variable: Literal["time", "rho"] = "time"

    def __post_init__(self) -> None:
        """Refuse a velocity in noise over signal, which has no such rule."""
        super().__post_init__()
        if self.prediction == "velocity" and self.variable == "rho":
            raise FlowlitError("DEIS: variable rho is for prediction data or noise, found velocity")

    def rule(self) -> StepRule:
        return StepRule(self.order + 1, self.prediction, self.variable)


@dataclass
class RhoRK(GridSolver):
    """DEIS's ρRK: Runge-Kutta rules in noise over signal, and Euler's rule on the steps at both ends.

    Of order 2, and on EDM's levels, it takes EDM's steps. NFE = order · (steps - 2) + 2.

    Args:
        steps: intervals, at least 1.
        rho: warps the grid, see ``time_grid``.
        grid: times of one's own; None is ``Power(rho)``.
        order: 2 is Heun's rule, 3 Kutta's, 4 the classical one.
        prediction: "noise" is DEIS's; "data" is its mirror image, in signal over noise.
    """

    order: Literal[2, 3, 4] = 3
    prediction: Literal["data", "noise"] = "noise"

    def _follow(
        self, velocity: VelocityField, x0: Tensor, times: list[float], cond: Cond, observe: Observer | None
    ) -> Solution:
        rule = partial(rho_runge_kutta, prediction=self.prediction)
        orders = [self.order] * self.steps
        return march_evaluated(velocity, x0, times, orders, cond, rule, self.prediction, observe)
