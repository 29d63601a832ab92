"""UniPC on the straight path. Zhao et al. 2023 (2302.04867)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .exponential import Form
from .exponential_multistep import ExponentialMultistep, StepRule

_FORMS: dict[str, Form] = {"1": "b1", "2": "midpoint", "exact": "exact"}


@dataclass
class UniPC(ExponentialMultistep):
    """UniPC: a multistep predictor in the log-SNR, corrected by the evaluation at the next step's start.

    The corrector costs nothing and raises the order of convergence by one; there is none on the steps at the
    ends of the path. NFE = steps.

    Args:
        steps: intervals, at least 1.
        rho: warps the grid, see ``time_grid``.
        grid: times of one's own; None is ``Power(rho)``.
        order: evaluations that the predictor uses, 1 to 3; 2 under guidance.
        prediction: "data", "noise", or "velocity", whose polynomial is one in t: the best at 3 to 5 steps of
            our teachers, with order 2 (docs/choosing.md).
        b: the paper's B(h), "1" or "2", which matters where a weight is not solved for but 1/2: in predictors
            of order 2, and correctors of order 1; "exact" solves for all.
        corrector: false leaves the predictor alone (UniP), which is DPM-Solver's multistep form.
        mean: of the data, for 1-rectified flows; spares the evaluation at noise.
    """

    order: Literal[1, 2, 3] = 3
    prediction: Literal["data", "noise", "velocity"] = "data"
    b: Literal["1", "2", "exact"] = "2"
    corrector: bool = True

    def rule(self) -> StepRule:
        if self.prediction == "velocity":
            return StepRule(self.order, "velocity", "time", corrector="exact" if self.corrector else None)
        form = _FORMS[self.b]
        return StepRule(self.order, self.prediction, form=form, corrector=form if self.corrector else None)
