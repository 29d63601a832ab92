"""Diffusions α x + σ ε, by the ratio of noise to signal σ / α; it is (1 - t) / t on the straight line."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import FlowlitError
from ..ranges import PositiveFloat, PositiveInt
from ..types import Diffusion


class Tabulated(Diffusion):
    """A diffusion in discrete steps, whose networks take the index of a step as time.

    With ``whole`` false it may be a place between two steps.
    """

    whole: bool

    @abstractmethod
    def ratios(self) -> np.ndarray:
        """Return σ / α of step 0, 1, …, growing, (steps,)."""

    def times(self) -> np.ndarray:
        """Return the times of the steps on the straight line, falling, (steps,): t = 1 / (1 + σ / α)."""
        return 1 / (1 + self.ratios())

    @property
    def range(self) -> tuple[float, float]:
        ratios = self.ratios()
        return float(ratios[0]), float(ratios[-1])

    def time_input(self, ratio: Tensor) -> Tensor:
        """Return the index at σ / α (B,), (B,), by linear interpolation of log(σ / α)."""
        levels = torch.as_tensor(self.ratios(), device=ratio.device).log()
        level = ratio.double().log()
        upper = torch.searchsorted(levels, level).clamp(1, len(levels) - 1)
        low = levels[upper - 1]
        high = levels[upper]
        place = upper - 1 + (level - low) / (high - low)
        return (place.round() if self.whole else place).to(torch.promote_types(ratio.dtype, torch.float32))


@dataclass
class DiscreteVP(Tabulated):
    """DDPM and its relatives: steps 0 … steps - 1 of growing noise, α² = Π (1 - β_i). Ho et al. 2020
    (2006.11239).

    Args:
        schedule: "linear" in β (DDPM, 1e-4 to 0.02), "scaled_linear" in √β (Stable Diffusion, 0.00085 to
            0.012), or "cosine" in α (2102.09672; beta_min and beta_max are not used).
        whole: round to a whole step, for networks that are not defined in between.
    """

    steps: PositiveInt = 1000
    schedule: Literal["linear", "scaled_linear", "cosine"] = "linear"
    beta_min: PositiveFloat = 1e-4
    beta_max: PositiveFloat = 0.02
    whole: bool = False

    def __post_init__(self) -> None:
        if self.steps < 2 or not self.beta_min < self.beta_max < 1:
            raise FlowlitError(f"DiscreteVP: expected steps > 1 and beta_min < beta_max < 1, found {self}")

    def ratios(self) -> np.ndarray:
        signal = np.cumprod(1 - self._betas())  # α²
        return np.sqrt((1 - signal) / signal)

    def _betas(self) -> np.ndarray:
        if self.schedule == "linear":
            return np.linspace(self.beta_min, self.beta_max, self.steps)
        if self.schedule == "scaled_linear":
            return np.linspace(math.sqrt(self.beta_min), math.sqrt(self.beta_max), self.steps) ** 2
        signal = np.cos((np.arange(self.steps + 1) / self.steps + 0.008) / 1.008 * math.pi / 2) ** 2
        return np.clip(1 - signal[1:] / signal[:-1], 0, 0.999)


@dataclass
class ContinuousVP(Diffusion):
    """The variance-preserving SDE: β(τ) grows linearly for τ in [eps, 1]. Song et al. 2021 (2011.13456), eq.
    33.

    Args:
        scale: networks take scale · τ as time; 999 in the score SDE's code.
    """

    beta_min: PositiveFloat = 0.1
    beta_max: PositiveFloat = 20.0
    eps: PositiveFloat = 1e-5
    scale: PositiveFloat = 999.0

    def __post_init__(self) -> None:
        if not self.beta_min < self.beta_max or self.eps >= 1:
            raise FlowlitError(f"ContinuousVP: expected beta_min < beta_max and eps < 1, found {self}")

    @property
    def range(self) -> tuple[float, float]:
        return self._ratio(self.eps), self._ratio(1.0)

    def _ratio(self, tau: float) -> float:
        return math.sqrt(math.expm1(self.beta_min * tau + (self.beta_max - self.beta_min) * tau**2 / 2))

    def time_input(self, ratio: Tensor) -> Tensor:
        """Return scale · τ at σ / α (B,), (B,), where ln(1 + (σ / α)²) = β_min τ + (β_max - β_min) τ² / 2."""
        total = torch.log1p(ratio**2)
        growth = self.beta_max - self.beta_min
        return self.scale * 2 * total / (self.beta_min + (self.beta_min**2 + 2 * growth * total).sqrt())


@dataclass
class VE(Diffusion):
    """Variance exploding, α = 1: y = x + σ ε. Song et al. 2021, eq. 31; Karras et al. 2022.

    Args:
        conditioning: networks take as time "sigma" (denoisers), "log_sigma", or "time" in [0, 1], in which
            log σ is linear.
    """

    sigma_min: PositiveFloat = 0.002
    sigma_max: PositiveFloat = 80.0
    conditioning: Literal["sigma", "log_sigma", "time"] = "sigma"

    preserves_variance: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.sigma_min < self.sigma_max:
            raise FlowlitError(f"VE: expected sigma_min < sigma_max, found {self}")

    @property
    def range(self) -> tuple[float, float]:
        return self.sigma_min, self.sigma_max

    def time_input(self, ratio: Tensor) -> Tensor:
        """Return σ, log σ or a time for σ / α = σ (B,), (B,)."""
        if self.conditioning == "sigma":
            return ratio
        if self.conditioning == "log_sigma":
            return ratio.log()
        return (ratio / self.sigma_min).log() / math.log(self.sigma_max / self.sigma_min)


@dataclass
class DiscreteVE(Tabulated):
    """Noise levels in a geometric row, as NCSN has them. Song and Ermon 2019 (1907.05600).

    Args:
        descending: networks count from the largest level, as NCSN's do.
        whole: round to a whole step, for networks that are not defined in between.
    """

    steps: PositiveInt = 1000
    sigma_min: PositiveFloat = 0.01
    sigma_max: PositiveFloat = 50.0
    descending: bool = True
    whole: bool = False

    preserves_variance: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.steps < 2 or not self.sigma_min < self.sigma_max:
            raise FlowlitError(f"DiscreteVE: expected steps > 1 and sigma_min < sigma_max, found {self}")

    def ratios(self) -> np.ndarray:
        return np.geomspace(self.sigma_min, self.sigma_max, self.steps)

    def time_input(self, ratio: Tensor) -> Tensor:
        """Return the index at σ / α (B,), (B,), counted from the largest level if ``descending``."""
        place = super().time_input(ratio)
        return self.steps - 1 - place if self.descending else place
