"""Averages of weights: their decay, and the combination of stored averages to another one.

A profile gives the share d of the average that stays at the n-th update:
average <- d · average + (1 - d) · weights. See docs/averaging.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from ..errors import FlowlitError
from ..ranges import Fraction, NonNegativeInt, PositiveFloat, PositiveInt, number
from ..types import EMAProfile

WIDEST = 12**-0.5
"""Relative width of the uniform average, the widest that a power law has."""

if TYPE_CHECKING:
    Width: TypeAlias = float
else:
    Width = number(float, f"above 0 and below {WIDEST:.4f}", lambda value: 0 < value < WIDEST)


def ema_decay(decay: float, updates: int, warmup: bool = True) -> float:
    """Return min(decay, (1 + n) / (10 + n)) for the n-th update, n from 1; without warm-up, decay.

    The rule of the papers' reference code. With decay 0.999999 it is in effect a power-law average over the
    last n / 9 steps.

    >>> ema_decay(0.999, 1)
    0.18181818181818182
    """
    return min(decay, (1 + updates) / (10 + updates)) if warmup else decay


@dataclass
class Constant(EMAProfile):
    """Decay at a constant rate; the rule of Rectified Flow and SlimFlow.

    Args:
        decay: 0.999999 in SlimFlow and Rectified Flow on CIFAR-10; shorter for short runs.
        warmup: cap it by (1 + n) / (10 + n), n counted from 1 in each run.
    """

    decay: Fraction = 0.999999
    warmup: bool = True

    def __call__(self, updates: int, batch_size: int) -> float:
        return ema_decay(self.decay, updates, self.warmup)


@dataclass
class HalfLife(EMAProfile):
    """Halve old weights within a number of training images, for any batch; the rule of EDM.

    Karras et al. 2022 (2206.00364), appendix F.2.

    Args:
        images: after which a weight has halved; 500,000 for EDM on CIFAR-10.
        rampup: early on, at most this share of the images seen so far; None for no such cap.
    """

    images: PositiveInt = 500_000
    rampup: PositiveFloat | None = 0.05

    def __call__(self, updates: int, batch_size: int) -> float:
        ramp = math.inf if self.rampup is None else self.rampup * updates * batch_size
        return 0.5 ** (batch_size / min(self.images, ramp))


@dataclass
class PowerLaw(EMAProfile):
    """Weigh step τ by τ^γ, so that the window grows with the run.

    Karras et al. 2024 (2312.02696), section 3.1. The only profile whose averages can be combined after
    training (``flowlit average``). It needs no length of the run.

    >>> PowerLaw()(1, 512)
    0.0

    Args:
        std: width of the window relative to the length of the run, above 0 and below 0.2887; the paper keeps
            0.05 and 0.10.
    """

    std: Width = 0.10

    def __call__(self, updates: int, batch_size: int) -> float:
        return (1 - 1 / updates) ** (exponent(self.std) + 1)


@dataclass
class Uniform(EMAProfile):
    """Mean of the weights after all updates but the first ones; Polyak and Juditsky 1992.

    For weights that circle around their aim at a constant learning rate, as in games of two players. Up to
    ``start`` the average is the weights themselves.

    >>> [round(Uniform(2)(n, 64), 3) for n in range(1, 7)]
    [0.0, 0.0, 0.0, 0.5, 0.667, 0.75]

    Args:
        start: updates that are left out.
    """

    start: NonNegativeInt = 0

    def __call__(self, updates: int, batch_size: int) -> float:
        return 1 - 1 / max(1, updates - self.start)


def width(gamma: float) -> float:
    """Standard deviation of the density (γ + 1) τ^γ on [0, 1]: (γ + 1)^½ (γ + 2)^-1 (γ + 3)^-½.

    >>> round(width(6.94), 3)
    0.1
    """
    return math.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2)


@cache
def exponent(std: float) -> float:
    """γ of a relative width, the inverse of ``width``: the largest root of (γ + 2)² (γ + 3) std² = γ + 1.

    Raises:
        FlowlitError: unless 0 < std < 12^-½, which is the width of a uniform average.
    """
    if not 0 < std < WIDEST:
        raise FlowlitError(
            f"a power-law average has a relative width (std) above 0 and below {WIDEST:.4f}, found {std}"
        )
    peak = std**-2
    return float(np.roots([1, 7, 16 - peak, 12 - peak]).real.max())


class Tracked(NamedTuple):
    """Power-law average after a number of updates."""

    step: int  # updates, from 1
    std: float


def inner_product(a: Tracked, b: Tracked) -> float:
    """∫ p_a p_b dτ of the densities p(τ) = (γ + 1) τ^γ / T^(γ + 1) on [0, T], T being the step.

    With m = min(T_a, T_b) it is (γ_a + 1)(γ_b + 1) / (γ_a + γ_b + 1) · (m / T_a)^γ_a (m / T_b)^γ_b / max(T_a,
    T_b).
    """
    first = exponent(a.std)
    second = exponent(b.std)
    end = min(a.step, b.step)
    overlap = (end / a.step) ** first * (end / b.step) ** second / max(a.step, b.step)
    return (first + 1) * (second + 1) / (first + second + 1) * overlap


class Combination(NamedTuple):
    """Coefficients that combine stored averages to another one."""

    coefficients: list[float]  # of the given averages, in their order; their sum is 1
    residual: float  # ‖target - combination‖ / ‖target‖ of the densities in L2: 0 is exact


def combine(given: Sequence[Tracked], target: Tracked) -> Combination:
    """Return the combination of power-law averages whose density is nearest to that of another one.

    Algorithm 3 of Karras et al. 2024: least squares with A_ij = ⟨p_i, p_j⟩ and b_i = ⟨p_i, p_target⟩. Here
    the coefficients must add up to 1, or weights that never change would be scaled.

    Args:
        given: stored averages, at least one.
        target: average to approximate.
    """
    # densities of the same norm, or late averages would hardly count
    size = np.array([inner_product(p, p) for p in given]) ** -0.5
    gram = np.array([[inner_product(p, q) for q in given] for p in given]) * np.outer(size, size)
    against = np.array([inner_product(p, target) for p in given]) * size
    system = np.block([[gram, size[:, None]], [size[None, :], np.zeros((1, 1))]])
    solution = np.linalg.lstsq(system, np.append(against, 1.0), rcond=1e-12)[0][:-1]
    norm = inner_product(target, target)
    missed = max(0.0, norm - 2 * solution @ against + solution @ gram @ solution)
    return Combination((solution * size).tolist(), math.sqrt(missed / norm))
