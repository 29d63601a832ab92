"""Distributions of the intervals [t, s] that flow maps are trained on, 0 <= t <= s <= 1."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import rng
from ..errors import FlowlitError
from ..ranges import Checked, PositiveFloat, PositiveInt, Probability
from ..types import TimeDistribution
from .times import LogitNormal, Uniform

Device = torch.device | str


class IntervalDistribution(Checked, ABC):
    """Distribution of intervals from t to s, where t = s stands for the velocity at t."""

    to_data: bool = False
    """Whether s = 1 always, so that networks of one time will do."""

    from_noise: bool = False
    """Whether t = 0 always, so that losses are watched by s."""

    @abstractmethod
    def __call__(self, n: int, device: Device = "cpu") -> tuple[Tensor, Tensor]:
        """Draw n intervals, t (n,) and s (n,) float32, 0 <= t <= s <= 1."""


def check_intervals(name: str, intervals: IntervalDistribution, n: int = 1000) -> None:
    """Refuse a distribution for the objective ``name`` if some of n draws are no intervals in [0, 1].

    Random draws afterwards are as they would have been without it.

    Raises:
        FlowlitError: with one of the intervals.
    """
    with torch.random.fork_rng(devices=[]):
        t, s = intervals(n)
    if t.shape != (n,) or s.shape != (n,):
        raise FlowlitError(
            f"{name}: {intervals} gave times of shapes {tuple(t.shape)} and {tuple(s.shape)} for {n} "
            f"intervals; expected ({n},) for both"
        )
    wrong = ~((t >= 0) & (t <= s) & (s <= 1))
    if wrong.any():
        first = int(wrong.nonzero()[0])
        raise FlowlitError(
            f"{name}: {intervals} gave an interval from {float(t[first]):.4g} to {float(s[first]):.4g}; "
            "expected 0 <= t <= s <= 1, where 0 is the noise and 1 the data (flowlit list intervals)"
        )


def some_equal(t: Tensor, s: Tensor, share: float) -> Tensor:
    """Return s (n,), where each is replaced by its t (n,) with a probability ``share``."""
    return torch.where(rng.rand(len(t), t.device) < share, t, s)


@dataclass
class Ordered(IntervalDistribution):
    """Draw two times and sort them. MeanFlow (2505.13447): of logit-normal times.

    Args:
        times: of both; None is MeanFlow's for CIFAR-10, sigmoid(N(2, 2²)).
        equal: probability of t = s; MeanFlow takes 0.25 for CIFAR-10, 0.75 for ImageNet's latents.
    """

    times: TimeDistribution | None = None
    equal: Probability = 0.25

    def __call__(self, n: int, device: Device = "cpu") -> tuple[Tensor, Tensor]:
        times = self.times or LogitNormal(2.0, 2.0)
        first = times(n, device)
        second = times(n, device)
        t = torch.minimum(first, second)
        return t, some_equal(t, torch.maximum(first, second), self.equal)


@dataclass
class StartEnd(IntervalDistribution):
    """Draw start and end from distributions of their own; an end before its start becomes that start.

    The defaults are those of MeanFlow's second version for CIFAR-10: t = s in 30 % of all draws.

    Args:
        start: None is sigmoid(N(0.6, 1.6²)).
        end: None is sigmoid(N(4, 1.6²)).
        equal: probability of t = s, beside those whose end comes before their start.
    """

    start: TimeDistribution | None = None
    end: TimeDistribution | None = None
    equal: Probability = 0.25

    def __call__(self, n: int, device: Device = "cpu") -> tuple[Tensor, Tensor]:
        t = (self.start or LogitNormal(0.6, 1.6))(n, device)
        s = torch.maximum(t, (self.end or LogitNormal(4.0, 1.6))(n, device))
        return t, some_equal(t, s, self.equal)


@dataclass
class ToData(IntervalDistribution):
    """End at the data, s = 1: consistency models, whose networks need one time only."""

    times: TimeDistribution | None = None
    to_data = True

    def __call__(self, n: int, device: Device = "cpu") -> tuple[Tensor, Tensor]:
        t = (self.times or Uniform())(n, device)
        return t, torch.ones_like(t)


@dataclass
class FromNoise(IntervalDistribution):
    """Start at the noise, t = 0, and end at a time from a distribution: no image is looked at.

    Args:
        times: of the end; None is uniform.
    """

    times: TimeDistribution | None = None
    from_noise = True

    def __call__(self, n: int, device: Device = "cpu") -> tuple[Tensor, Tensor]:
        s = (self.times or Uniform())(n, device)
        return torch.zeros_like(s), s


@dataclass
class Milestones(IntervalDistribution):
    """End at the next of the times 1 / count, 2 / count, …, 1: for samplers of ``count`` jumps.

    The first stage of MLCM (2406.05768), with count 8.
    """

    count: PositiveInt = 8
    times: TimeDistribution | None = None

    def __call__(self, n: int, device: Device = "cpu") -> tuple[Tensor, Tensor]:
        t = (self.times or Uniform())(n, device)
        return t, ((t * self.count).floor() + 1).clamp(max=self.count) / self.count


@dataclass
class Dyadic(IntervalDistribution):
    """Spans 1, 1/2, 1/4, …, all equally often, from a multiple of themselves. Shortcut models (2410.12557).

    Args:
        levels: number of spans; 7 of them end at 1/64.
        equal: probability of t = s, at a multiple of half the shortest span.
    """

    levels: PositiveInt = 7
    equal: Probability = 0.875

    def __call__(self, n: int, device: Device = "cpu") -> tuple[Tensor, Tensor]:
        number = 2.0 ** rng.randint(self.levels, n, device)
        place = rng.rand(n, device)
        t = (place * number).floor() / number
        finest = 2.0**self.levels
        is_equal = rng.rand(n, device) < self.equal
        t = torch.where(is_equal, (place * finest).floor() / finest, t)
        return t, torch.where(is_equal, t, t + 1 / number)


@dataclass
class Gap(IntervalDistribution):
    """Near times for consistency: σ_s = σ_t (1 - (1 + 8 sigmoid(-σ_t)) / ratio), with σ = (1 - t) / t.

    Easy consistency tuning (2406.14548), where the ratio is 2 at first and doubles every 25,000 steps of
    100,000 to 400,000; or 256 throughout. An end below σ = 0 is s = 1.

    Args:
        ratio: of σ_t to the gap, roughly; moved by ``Anneal`` (objective.intervals.ratio).
        times: of t; None is ECT's for CIFAR-10, sigmoid(N(1.1, 2²)).
    """

    ratio: PositiveFloat = 256.0
    times: TimeDistribution | None = None
    to_data = True

    def __call__(self, n: int, device: Device = "cpu") -> tuple[Tensor, Tensor]:
        t = (self.times or LogitNormal(1.1, 2.0))(n, device).clamp(1e-6, 1 - 1e-6)
        sigma = (1 - t) / t
        nearer = (sigma * (1 - (1 + 8 * torch.sigmoid(-sigma)) / self.ratio)).clamp_min(0)
        return t, torch.maximum(t, 1 / (1 + nearer))
