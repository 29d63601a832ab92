"""A schedule of steps, each with decisions of its own, as a value in a YAML. Liu et al. 2023 (2312.07243)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from ..errors import FlowlitError
from ..ranges import Float, PositiveInt
from ..types import Cond, Observer, Solution, VelocityField
from .base import CheckedSolver
from .exponential import Form
from .exponential_multistep import MOST_NODES, StepRule, multistep
from .grids import check_grid, check_steps

Predicts = Literal["data", "noise", "velocity"]
Shape = Literal["exact", "midpoint", "b1"]


@dataclass
class SolverSchedule(CheckedSolver):
    """Multistep steps whose times, orders, predictions, forms and correctors differ: what a search returns.

    DPM-Solver, UniPC and DEIS's tAB of velocities are schedules whose steps are alike. Each list has an entry
    for each step; a single value stands for all of them. NFE = steps, or one fewer with a mean.

    Args:
        times: one more than steps, increasing from 0 to 1.
        orders: evaluations that each predictor uses, 1 to 4, at most as many as there are by then; a single
            value is lowered where there are fewer.
        predictions: data and noise are polynomials in the log-SNR, velocity is one in time.
        forms: of predictors of order 2 and correctors of order 1, see ``UniPC``.
        correctors: whether the next evaluation corrects the step; there is none on the last.
        scales: the first derivative of a step is multiplied by 1 + scale · h, h being the step.
        mean: of the data, for 1-rectified flows; spares the evaluation at noise.
        skipped: for each step, the names of the network's blocks that the evaluation at its beginning leaves
            out, as ``bottleneck.0``; they are of one network. NFE counts such an evaluation as one. In
            reverse a step begins at its other end, so that the way back costs the same.
    """

    times: list[Float]
    orders: PositiveInt | list[PositiveInt] = 2
    predictions: Predicts | list[Predicts] = "data"
    forms: Shape | list[Shape] = "exact"
    correctors: bool | list[bool] = False
    scales: Float | list[Float] = 0.0
    mean: list[Float] | None = None
    skipped: list[list[str]] | None = None

    def __post_init__(self) -> None:
        """Refuse times that are no way from noise to data, and lists of another length."""
        self.times = [float(time) for time in self.times]
        check_steps(len(self.times))
        check_grid(self.times, len(self.times) - 1)
        rules = self.rules()
        for i, rule in enumerate(rules):
            if rule.order > MOST_NODES:
                raise FlowlitError(f"SolverSchedule: an order is {rule.order}; expected {MOST_NODES} at most")
            if isinstance(self.orders, list) and rule.order > i + 1:
                raise FlowlitError(
                    f"SolverSchedule: step {i + 1} has order {rule.order}, but there are {i + 1} evaluations "
                    f"by then; expected {i + 1} at most"
                )

    def rules(self) -> list[StepRule]:
        """Return the rule of each step."""
        names = ("orders", "predictions", "forms", "correctors", "scales", "skipped")
        return [_rule(*values) for values in zip(*map(self._each, names), strict=True)]

    def _each(self, name: str) -> Sequence[Any]:
        value = getattr(self, name)
        steps = len(self.times) - 1
        single = () if value is None else value
        values = value if isinstance(value, list) else [single] * steps
        if len(values) != steps:
            raise FlowlitError(
                f"SolverSchedule: {name} has {len(values)} entries for {steps} steps; expected one for each, "
                "or a single value"
            )
        return values

    def _integrate(
        self, velocity: VelocityField, x0: Tensor, cond: Cond, observe: Observer | None, reverse: bool
    ) -> Solution:
        times = self.times[::-1] if reverse else self.times
        rules = self.rules()
        return multistep(
            velocity, x0, times, rules[::-1] if reverse else rules, cond, mean=self.mean, observe=observe
        )


def _rule(
    order: int, prediction: Predicts, form: Form, corrector: bool, scale: float, skipped: Sequence[str]
) -> StepRule:
    variable: Literal["time", "log_snr"] = "time" if prediction == "velocity" else "log_snr"
    return StepRule(
        order, prediction, variable, form, form if corrector else None, float(scale), tuple(skipped)
    )
