"""The Lagrangian identity, whose end moves: u + (s - t) du/ds = v(X(x, t, s), s)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..._support.velocities import evaluate
from ...paths.straight import expand, interpolate
from ...ranges import NonNegativeFloat, PositiveFloat, Share
from ...types import Distance, Pair, VelocityField
from ..intervals import IntervalDistribution
from .averages import Derivative, average, end_derivative, jump
from .base import FlowMapObjective


def lagrangian_loss(
    velocity: VelocityField,
    guide: VelocityField | None,
    pair: Pair,
    t: Tensor,
    s: Tensor,
    *,
    distance: Distance,
    derivative: Derivative = "jvp",
    step: float = 5e-3,
) -> Tensor:
    """d( u + (s - t) du/ds, sg[v(x_t + (s - t) u, s)] ), (B,), with u = u(x_t, t, s), at t and s (B,).

    v is the guide's velocity, or the network's own u(·, s, s), which for t = s is replaced by the pair's x1 -
    x0. Boffi et al. 2025 (2406.07507, 2505.18825). Gradients go through u and its derivative, and reach no
    guide.
    """
    x_t = interpolate(pair.x0, pair.x1, t)
    u, slope = end_derivative(velocity, x_t, t, s, pair.cond, derivative=derivative, step=step)
    with torch.no_grad():
        x_s = jump(x_t, u, t, s)
        if guide is None:
            own = average(velocity, x_s, s, s, pair.cond)
            target = torch.where(expand(s > t, x_s), own, pair.x1 - pair.x0)
        else:
            target = evaluate(guide, x_s, s, pair.cond)
    return distance(u + expand(s - t, x_t) * slope, target)


class Lagrangian(FlowMapObjective):
    """Learn an average velocity whose jumps move, with their end, along a velocity: a guide's, or its own.

    It looks at the end of its own jump, and never differentiates by x or by the start, so that a clock of 999
    t does for it. With a guide and ``intervals: FromNoise`` no image is needed: the second stage of OFTSR, as
    ``TrajectoryDistillation`` with networks of one time. The first choice for a slim student that is a
    velocity already.

    Args:
        intervals, distance, guide: see ``FlowMapObjective``. Without a guide some intervals must have t = s.
        derivative: by the end: "jvp", exact, or a difference: "central" takes two more evaluations and
            "forward" one, with gradients, which takes a third of the time.
        step: of a difference.
        p: power of the adaptive weight, see ``MeanFlow``.
        c: of the same.
    """

    def __init__(
        self,
        intervals: IntervalDistribution | None = None,
        distance: Distance | None = None,
        guide: nn.Module | None = None,
        derivative: Derivative = "jvp",
        step: Share = 5e-3,
        p: NonNegativeFloat = 0.0,
        c: PositiveFloat = 1e-3,
    ):
        super().__init__(intervals, distance, guide, p, c)
        self.derivative: Derivative = derivative
        self.step = step

    def loss(self, velocity: VelocityField, pair: Pair, t: Tensor, s: Tensor) -> Tensor:
        """Return the error of each sample on its interval, t to s (B,), (B,)."""
        return lagrangian_loss(
            velocity,
            self.guide,
            pair,
            t,
            s,
            distance=self.distance,
            derivative=self.derivative,
            step=self.step,
        )
