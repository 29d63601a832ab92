"""ResShift's chain from a degraded image to a clean one. Yue et al. 2023 (2307.12348)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from ..errors import FlowlitError
from ..ranges import Fraction, PositiveFloat, PositiveInt
from .diffusion import Tabulated


@dataclass
class ResShift(Tabulated):
    """The chain x_k = (1 - η_k) x + η_k c + κ √η_k ε, k = 1 … steps, around a degraded image c of full size.

    In residual coordinates x - c it is a diffusion with α = 1 - η, σ = √η and noise κ ε. Its state at η is
    that of the straight path from x0 = c + κ ε, at t = ρ / (1 + ρ) with ρ = (1 - η) / √η:

        x_t - c = t / (1 - η) · (x_η - c).

    Its steps are ``flowlit.objectives.times.DiffusionSteps`` for training, and
    ``flowlit.solvers.grids.DiffusionSteps`` for generation; its start is
    ``flowlit.couplings.NoisedImage(sigma=κ, preserve_variance=False)``. √η grows from min(first / κ, first)
    to ``last`` in a geometric row whose places are bent by ``power``.

    Args:
        steps: 15, or 4 of the journal's version (2403.07319), which has ``first: 0.2``.
        power: p of the paper; larger is less noise in the middle, and less grain.
        kappa: standard deviation of the noise at the start.
        first: √η of the first step, before it is divided by κ.
        last: √η of the last step, where x is all but gone.
        whole: round to a whole step, for networks that are not defined in between.
    """

    steps: PositiveInt = 15
    power: PositiveFloat = 0.3
    kappa: PositiveFloat = 2.0
    first: Fraction = 0.04
    last: Fraction = 0.99
    whole: bool = False

    preserves_variance: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.steps < 2 or not self.first < self.last:
            raise FlowlitError(f"ResShift: expected steps > 1 and first < last, found {self}")

    def roots(self) -> np.ndarray:
        """Return √η of steps 1 … steps, growing, (steps,)."""
        lowest = min(self.first / self.kappa, self.first)
        places = (np.arange(self.steps) / (self.steps - 1)) ** self.power
        return lowest * (self.last / lowest) ** places

    def ratios(self) -> np.ndarray:
        root = self.roots()
        return root / (1 - root**2)

    def root(self, ratio: Tensor) -> Tensor:
        """Return √η at σ / α = √η / (1 - η) (B,), (B,)."""
        signal = 1 / ratio
        return 2 / (signal + (signal**2 + 4).sqrt())

    def alpha(self, ratio: Tensor) -> Tensor:
        """Return 1 - η at σ / α (B,), (B,)."""
        return self.root(ratio) / ratio
