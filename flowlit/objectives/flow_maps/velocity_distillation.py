"""Distillation by the velocity that a one-step generator implies. MDT-dist (2509.04406)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ... import rng
from ..._support.velocities import evaluate
from ...frozen import Frozen
from ...paths.straight import expand, interpolate
from ...ranges import Share
from ...types import Distance, LossWeighting, Pair, TimeDistribution, VelocityField
from ..distances import SquaredError
from ..intervals import IntervalDistribution, ToData
from ..times import LogitNormal
from .averages import average, start_derivative
from .base import FlowMapObjective


def velocity_distillation_loss(
    velocity: VelocityField,
    guide: VelocityField,
    pair: Pair,
    t: Tensor,
    noise: Tensor,
    *,
    distance: Distance,
    step: float = 0.01,
) -> Tensor:
    """d( u, sg[u - r] ), (B,), with u = u(x0, 0, 1), and r the difference of student's and guide's velocity.

    r = φ - v - (1 - t) dφ/dt at x_t = (1 - t) noise + t (x0 + u), with the guide's v and φ = u(x_t, t, 1),
    at t (B,). Of the squared error the gradient is 2 r ∂u: samples move along v - (φ - (1 - t) dφ/dt).
    """
    start = torch.zeros_like(t)
    end = torch.ones_like(t)
    u = average(velocity, pair.x0, start, end, pair.cond)
    with torch.no_grad():
        x_t = interpolate(noise, pair.x0 + u, t)
        v = evaluate(guide, x_t, t, pair.cond)
        phi = average(velocity, x_t, t, end, pair.cond)
        slope = start_derivative(velocity, x_t, t, end, v, pair.cond, u=phi, derivative="forward", step=step)
        residual = phi - v - expand(1 - t, x_t) * slope
    return distance(u, (u - residual).detach())


class VelocityDistillation(FlowMapObjective):
    """Move a one-step generator's samples along the difference of the guide's velocity and its own.

    Its own is what its average velocity implies, so that there is no critic. If ``MeanFlow`` with
    ``intervals: ToData`` and the guide has no loss, this has none either. Use it beside that in ``Combined``,
    late, with a small learning rate.

    Args:
        guide: the teacher; frozen, absent from checkpoints.
        times: distribution of t; None is sigmoid(N(-1, 1)).
        distance: between velocities; None is the mean squared error.
        weight: of each sample by its time. ``Powers(2, -1)`` makes the gradient that of the reverse KL
            divergence; None is 1.
        step: of the difference.
    """

    def __init__(
        self,
        guide: nn.Module,
        times: TimeDistribution | None = None,
        distance: Distance | None = None,
        weight: LossWeighting | None = None,
        step: Share = 0.01,
    ):
        intervals: IntervalDistribution = ToData(times or LogitNormal(-1.0, 1.0))
        super().__init__(intervals, distance or SquaredError(), guide)
        self.weight = weight
        self.step = step

    def loss(self, velocity: VelocityField, pair: Pair, t: Tensor, s: Tensor) -> Tensor:
        """Return the squared difference of the velocities of each sample at t (B,), (B,); s is 1."""
        noise = rng.randn_like(pair.x0)
        return velocity_distillation_loss(
            velocity,
            cast(Frozen, self.guide),
            pair,
            t,
            noise,
            distance=self.distance,
            step=self.step,
        )

    def weigh(self, error: Tensor, t: Tensor, s: Tensor, pair: Pair) -> Tensor:
        """Return errors (B,), each times its weight at t (B,)."""
        return error if self.weight is None else self.weight(t) * error
