"""Discrete consistency: two points of one trajectory have one end."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..._support.velocities import evaluate
from ...paths.straight import endpoint, interpolate
from ...types import Distance, Pair, VelocityField
from ..distances import VectorPseudoHuber
from ..intervals import Gap, IntervalDistribution
from .averages import average, jump
from .base import FlowMapObjective


def consistency_loss(
    velocity: VelocityField,
    guide: VelocityField | None,
    pair: Pair,
    t: Tensor,
    s: Tensor,
    *,
    distance: Distance,
) -> Tensor:
    """d( f(x_t, t), sg[f(x_s, s)] ), (B,), with f(x, t) = x + (1 - t) u(x, t, 1), at t and s >= t (B,).

    x_s is a step of the guide from x_t, or the point of the same pair, whose loss vanishes in its mean
    gradient alone. For s = 1 the target is x_s. Song et al. 2023 (2303.01469), Geng et al. 2024 (2406.14548).
    """
    x_t = interpolate(pair.x0, pair.x1, t)
    f_t = _end(velocity, x_t, t, pair)
    with torch.no_grad():
        if guide is None:
            x_s = interpolate(pair.x0, pair.x1, s)
        else:
            x_s = jump(x_t, evaluate(guide, x_t, t, pair.cond), t, s)
        f_s = _end(velocity, x_s, s, pair)
    return distance(f_t, f_s)


def _end(velocity: VelocityField, x: Tensor, t: Tensor, pair: Pair) -> Tensor:
    return endpoint(x, average(velocity, x, t, torch.ones_like(t), pair.cond), t)


class Consistency(FlowMapObjective):
    """Learn where a trajectory ends from a later point of it: consistency models, for networks of one time.

    Easy consistency tuning (ECT, 2406.14548): from a velocity's weights, with ``intervals.ratio`` moved by
    ``Anneal`` and ``schedules.Geometric``, or fixed at 256. Sample by ``OneStep(0)`` or, in several steps, by
    ``ReNoise``; with a second time by ``Jumps``. Dropout helps, with the same masks in both calls.

    Args:
        intervals: pairs of near times; None is ECT's ``Gap``.
        distance: between ends; None is ``VectorPseudoHuber``.
        guide: a velocity whose Euler step leads from one point to the next (consistency distillation); None
            takes both from the pair.
    """

    def __init__(
        self,
        intervals: IntervalDistribution | None = None,
        distance: Distance | None = None,
        guide: nn.Module | None = None,
    ):
        super().__init__(intervals or Gap(), distance or VectorPseudoHuber(), guide)

    def loss(self, velocity: VelocityField, pair: Pair, t: Tensor, s: Tensor) -> Tensor:
        """Return the distance of the two ends of each sample, from t and s (B,), (B,)."""
        return consistency_loss(velocity, self.guide, pair, t, s, distance=self.distance)

    def weigh(self, error: Tensor, t: Tensor, s: Tensor, pair: Pair) -> Tensor:
        """Return errors (B,) divided by the difference of the noise levels (1 - t) / t at t and s (B,)."""
        return error * t * s / (s - t).clamp_min(1e-7)
