"""DPM-Solver and DPM-Solver++ on the straight path. Lu et al. 2022 (2206.00927, 2211.01095)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ..errors import FlowlitError
from ..ranges import PositiveFloat, PositiveInt
from ..types import Cond, Observer, Solution, VelocityField
from .base import CheckedSolver
from .exponential_multistep import ExponentialMultistep, StepRule
from .exponential_singlestep import follow
from .grids import Power, TimeGrid, check_grid, check_steps


@dataclass
class DPMSolver(ExponentialMultistep):
    """DPM-Solver's multistep form: a polynomial of the predicted data (++) or noise in the log-SNR.

    Euler's rule at both ends, and a history in between. Take order 2 under guidance, 3 without. NFE = steps.

    Args:
        steps: intervals, at least 1.
        rho: warps the grid, see ``time_grid``.
        grid: times of one's own; None is ``Power(rho)``.
        order: evaluations that a step uses, 1 to 3; 1 is ``Euler``.
        prediction: "data" is DPM-Solver++, "noise" DPM-Solver.
        kind: of order 2, "midpoint" or "taylor".
        published: the third-order update as it is printed and copied, without the factor 2 of its second
            derivative; its order of convergence is 2. To repeat figures alone.
        mean: of the data, for 1-rectified flows; spares the evaluation at noise.
    """

    order: Literal[1, 2, 3] = 3
    prediction: Literal["data", "noise"] = "data"
    kind: Literal["midpoint", "taylor"] = "midpoint"
    published: bool = False

    def rule(self) -> StepRule:
        if self.order == 3 and self.published:
            return StepRule(3, self.prediction, form="published")
        return StepRule(self.order, self.prediction, form="exact" if self.kind == "taylor" else "midpoint")


@dataclass
class SinglestepDPMSolver(CheckedSolver):
    """DPM-Solver's singlestep form: each step starts from the last state alone, as Runge-Kutta rules do.

    A budget of evaluations is divided into a step of Euler's at each end, as many as possible of the order,
    and a lower one for what is left ("fast"). Multistep solvers are better at the same budget as a rule.

    Args:
        evaluations: of the network, exactly.
        order: of the steps between the ends, 2 or 3.
        prediction: "data" is DPM-Solver++, "noise" DPM-Solver.
        kind: "midpoint" or "taylor".
        rho: warps the grid, see ``time_grid``.
        grid: times of one's own, as many as the budget's steps need; None is ``Power(rho)``.
    """

    evaluations: PositiveInt
    order: Literal[2, 3] = 3
    prediction: Literal["data", "noise"] = "data"
    kind: Literal["midpoint", "taylor"] = "midpoint"
    rho: PositiveFloat = 1.0
    grid: TimeGrid | None = None

    def __post_init__(self) -> None:
        """Refuse a grid that does not fit before a run begins."""
        check_steps(self.evaluations)
        if self.grid is not None and self.rho != 1:
            raise FlowlitError(f"time grid: rho={self.rho} is not used with grid={self.grid}; leave one out")
        check_grid(self._times(), len(self.orders()))

    def orders(self) -> list[int]:
        """Return the order of each step, whose sum is the budget.

        >>> SinglestepDPMSolver(9).orders()
        [1, 3, 3, 1, 1]
        """
        if self.evaluations < 3:
            return [1] * self.evaluations
        steps, left = divmod(self.evaluations - 2, self.order)
        return [1, *[self.order] * steps, *[left] * (left > 0), 1]

    def _times(self) -> list[float]:
        return (self.grid or Power(self.rho))(len(self.orders()))

    def _integrate(
        self, velocity: VelocityField, x0: Tensor, cond: Cond, observe: Observer | None, reverse: bool
    ) -> Solution:
        times = self._times()
        orders = self.orders()
        if reverse:
            times.reverse()
            orders.reverse()
        kinds = {"prediction": self.prediction, "kind": self.kind}
        return follow(velocity, x0, times, orders, cond, **kinds, observe=observe)  # type: ignore[arg-type]
