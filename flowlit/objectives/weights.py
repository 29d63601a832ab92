"""Loss weights w(t), in terms of snr(t) = (t / (1 - t))². Each multiplies the distance of its sample.

Where an objective takes a weight, None is w = 1, the papers' choice.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..ranges import Float, PositiveFloat
from ..types import LossWeighting


def snr(t: Tensor, eps: float = 1e-3) -> Tensor:
    """Signal-to-noise ratio of x_t on the straight line, (t / (1 - t + eps))², finite at t = 1; (B,) as t."""
    return (t / (1 - t + eps)) ** 2


@dataclass
class SNR(LossWeighting):
    """w = snr."""

    def __call__(self, t: Tensor) -> Tensor:
        return snr(t)


@dataclass
class InverseSNR(LossWeighting):
    """w = 1 / snr, kept finite at t = 0."""

    eps: PositiveFloat = 1e-3

    def __call__(self, t: Tensor) -> Tensor:
        return 1 / (snr(t) + self.eps)


@dataclass
class SNRPlusOne(LossWeighting):
    """w = snr + 1."""

    def __call__(self, t: Tensor) -> Tensor:
        return snr(t) + 1


@dataclass
class Karras(LossWeighting):
    """w = snr + 1 / sigma_data², with sigma_data the standard deviation of the data; 0.5 for images."""

    sigma_data: PositiveFloat = 0.5

    def __call__(self, t: Tensor) -> Tensor:
        return snr(t) + 1 / self.sigma_data**2


@dataclass
class TruncatedSNR(LossWeighting):
    """w = max(snr, 1)."""

    def __call__(self, t: Tensor) -> Tensor:
        return snr(t).clamp_min(1)


@dataclass
class Remaining(LossWeighting):
    """w = (1 - t)²: turns a squared velocity error into the squared error of the predicted endpoint."""

    def __call__(self, t: Tensor) -> Tensor:
        return (1 - t) ** 2


@dataclass
class EDMWeight(LossWeighting):
    """w = ((1 - t)² + s² t²) / s² with s = sigma_data: EDM's λ(σ) = (σ² + s²) / (σ s)² for velocities.

    Karras et al. 2022 (2206.00364), table 1; see ``EDMLoss``.
    """

    sigma_data: PositiveFloat = 0.5

    def __call__(self, t: Tensor) -> Tensor:
        return ((1 - t) / self.sigma_data) ** 2 + t**2


@dataclass
class Powers(LossWeighting):
    """w = t^data (1 - t)^noise, of which no factor gets below 1e-6.

    In score distillation (2, -1) weights the reverse KL divergence exactly, (2, -2) the Fisher divergence of
    scores; both are for proofs rather than for training. (0, 1) is the plain difference of denoisers.
    """

    data: Float = 0.0
    noise: Float = 0.0

    def __call__(self, t: Tensor) -> Tensor:
        return t.clamp_min(1e-6) ** self.data * (1 - t).clamp_min(1e-6) ** self.noise
