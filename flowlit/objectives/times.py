"""Distributions of the training times, from t = 0 (noise) to t = 1 (data)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import rng
from ..errors import FlowlitError
from ..paths.diffusion import Tabulated
from ..ranges import Float, NonNegativeFloat, PositiveFloat, PositiveInt, Probability
from ..types import TimeDistribution


@dataclass
class Uniform(TimeDistribution):
    """Draw t uniformly from [low, high). The papers' reference code uses low = 0.001 for training."""

    low: Probability = 0.0
    high: Probability = 1.0

    def __post_init__(self) -> None:
        """Refuse an empty interval."""
        if self.low > self.high:
            raise FlowlitError(f"Uniform: expected low <= high, found low={self.low}, high={self.high}")

    def __call__(self, n: int, device: torch.device | str = "cpu") -> Tensor:
        return self.low + (self.high - self.low) * rng.rand(n, device)


@dataclass
class Fixed(TimeDistribution):
    """Use one time for all samples; 0 for one-step distillation in velocity form."""

    t: Probability = 0.0

    def __call__(self, n: int, device: torch.device | str = "cpu") -> Tensor:
        return torch.full((n,), self.t, device=device)


@dataclass
class Grid(TimeDistribution):
    """Draw t uniformly from {0, 1/k, …, (k-1)/k}, the times of k Euler steps, for k-step distillation."""

    k: PositiveInt

    def __call__(self, n: int, device: torch.device | str = "cpu") -> Tensor:
        return rng.randint(self.k, n, device) / self.k


@dataclass
class UShaped(TimeDistribution):
    """Draw t from a U-shaped, symmetric distribution, dense at both ends.

    Lee et al. 2024 (2405.20320): density ∝ exp(a t) + exp(a (1 - t)), a = 4, for reflow of a well-trained
    teacher. Drawn by inverting the distribution function of one half and mirroring with probability ½.
    """

    a: PositiveFloat = 4.0
    clamp: NonNegativeFloat = 1e-5

    def __post_init__(self) -> None:
        """Refuse densities beyond float32, and a clamp that leaves no interval."""
        if self.a > 80 or self.clamp >= 0.5:
            raise FlowlitError(
                f"UShaped: expected a <= 80 and clamp < 0.5, found a={self.a}, clamp={self.clamp}"
            )

    def __call__(self, n: int, device: torch.device | str = "cpu") -> Tensor:
        t = torch.log1p(rng.rand(n, device) * math.expm1(self.a)) / self.a
        t = torch.where(rng.rand(n, device) < 0.5, 1 - t, t)
        return t.clamp(self.clamp, 1 - self.clamp)


@dataclass
class LogitNormal(TimeDistribution):
    """Draw t = sigmoid(N(mean, std²)): dense in the middle. Esser et al. 2024 (2403.03206), for teachers."""

    mean: Float = 0.0
    std: NonNegativeFloat = 1.0

    def __call__(self, n: int, device: torch.device | str = "cpu") -> Tensor:
        return torch.sigmoid(self.mean + self.std * rng.randn(n, device))


@dataclass
class KarrasSteps(TimeDistribution):
    """Draw from the times of EDM's sampling steps: t = 1 / (1 + σ), σ^(1/rho) uniform.

    Karras et al. 2022 (2206.00364), equation 5. A place of 0 is sigma_max, t near 0; 1 is sigma_min. DMD2 has
    places in [0.02, 0.98], SiD in [0.2, 1], for σ <= 24.
    """

    low: Probability = 0.0
    high: Probability = 1.0
    rho: PositiveFloat = 7.0
    sigma_min: PositiveFloat = 0.002
    sigma_max: PositiveFloat = 80.0

    def __post_init__(self) -> None:
        """Refuse empty intervals."""
        if self.low > self.high or self.sigma_min > self.sigma_max:
            raise FlowlitError(
                f"KarrasSteps: expected low <= high and sigma_min <= sigma_max, found low={self.low}, "
                f"high={self.high}, sigma_min={self.sigma_min}, sigma_max={self.sigma_max}"
            )

    def __call__(self, n: int, device: torch.device | str = "cpu") -> Tensor:
        place = self.low + (self.high - self.low) * rng.rand(n, device)
        first, last = (sigma ** (1 / self.rho) for sigma in (self.sigma_max, self.sigma_min))
        return 1 / (1 + (first + place * (last - first)) ** self.rho)


@dataclass
class DiffusionSteps(TimeDistribution):
    """Draw uniformly from the times of a diffusion's steps, t = 1 / (1 + σ / α), as its own training does.

    For ResShift: ``diffusion: {class_path: flowlit.paths.ResShift}``, and ``weight:
    flowlit.objectives.weights.Remaining``, with which the loss is that of its prediction of x.
    """

    diffusion: Tabulated

    def __call__(self, n: int, device: torch.device | str = "cpu") -> Tensor:
        times = torch.as_tensor(self.diffusion.times(), dtype=torch.float32, device=device)
        return times[rng.randint(len(times), n, device)]


@dataclass
class Shifted(TimeDistribution):
    """Move another distribution's times towards noise: t' = t / (f - (f - 1) t), both ends fixed.

    For data of many dimensions, in which the same noise hides less: f = √(C H W / 4096) in RAE (2510.11690),
    at least 1. ``flowlit.solvers.grids.Shifted(shift=f)`` does the same to a solver's times.

    >>> Shifted(Fixed(0.5), shift=2.5)(1).item()
    0.2857142984867096

    Args:
        times: None is uniform.
        shift: f; None takes ``shape``.
        shape: (C, H, W) of x1, of which f is computed.
    """

    times: TimeDistribution | None = None
    shift: PositiveFloat | None = None
    shape: list[PositiveInt] | None = None

    def __post_init__(self) -> None:
        """Refuse two shifts, and none."""
        if (self.shift is None) == (self.shape is None):
            raise FlowlitError(
                f"times.Shifted: expected shift or shape, found shift={self.shift}, shape={self.shape}"
            )

    @property
    def factor(self) -> float:
        """f, 1 for no shift."""
        return shift_of(self.shape) if self.shift is None else self.shift  # type: ignore[arg-type]

    def __call__(self, n: int, device: torch.device | str = "cpu") -> Tensor:
        t = (self.times or Uniform())(n, device)
        return t / (self.factor - (self.factor - 1) * t)


def shift_of(shape: Sequence[int]) -> float:
    """Return RAE's shift of times for x1 of a shape (C, H, W), at least 1.

    >>> shift_of([768, 16, 16])
    6.928203230275509
    """
    return max(1.0, math.sqrt(math.prod(shape) / 4096))
