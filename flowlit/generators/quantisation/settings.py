"""Settings of rounding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

By = Literal["pixels", "features", "both"]
"""Kind of harm that is kept small."""

Fit = Literal["features", "paired", "moments", "none"]
"""What the coefficients of steps are fitted on."""


@dataclass(frozen=True)
class Settings:
    """Settings by which a generator is rounded.

    Args:
        budget: bytes of the file; None gives all layers the same bits.
        milliseconds: of one image on this machine, the other kind of budget.
        bits: of all layers without a budget.
        activations: 8, or 32 to leave them as they are.
        by: kind of harm that a budget keeps small; None takes both where there are features.
        fit: of the coefficients; None is that in features where there are any and the generator has one step.
        calibrate: images that ranges and coefficients are measured on, and the first of them harm.
        num: images of the comparison, whose noise is another.
        seed: of the comparison; calibration has the next one.
    """

    budget: int | None = None
    milliseconds: float | None = None
    bits: Literal[4, 8] = 8
    activations: Literal[8, 32] = 8
    by: By | None = None
    fit: Fit | None = None
    calibrate: int = 1024
    num: int = 64
    seed: int = 0

    def has_budget(self) -> bool:
        """Return whether bits are chosen by layer."""
        return self.budget is not None or self.milliseconds is not None
