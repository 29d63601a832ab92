"""Regression onto another network's velocity at the same points, on real images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .._support.velocities import evaluate
from ..frozen import Frozen
from ..paths.straight import interpolate
from ..types import Cond, Distance, LossWeighting, Pair, TimeDistribution, VelocityField
from .reflow import RectifiedFlow


def velocity_matching_loss(
    velocity: VelocityField,
    guide: VelocityField,
    pair: Pair,
    t: Tensor,
    *,
    distance: Distance,
    guide_cond: Cond | None = None,
) -> Tensor:
    """d( v(x_t, t), v_φ(x_t, t) ), (B,), at t (B,), with the guide's v_φ; no gradient reaches the guide.

    The guide has conditions (B, …) of its own, or those of the pair. Song et al. 2024 (2410.23274), where it
    is teacher score matching.
    """
    x_t = interpolate(pair.x0, pair.x1, t)
    with torch.no_grad():
        target = evaluate(guide, x_t, t, pair.cond if guide_cond is None else guide_cond)
    return distance(evaluate(velocity, x_t, t, pair.cond), target)


class VelocityMatching(RectifiedFlow):
    """Regress onto a guide's velocity, on real images and fresh noise: a first phase for small students.

    Its minimum is that of ``RectifiedFlow`` on the same data, with a target that is less noisy: the guide has
    averaged over the noise already.

    Args:
        guide: a larger velocity of the same data; frozen, absent from checkpoints.
        distance: between velocities; None is the mean squared error.
        times: distribution of the training times; None is uniform on [0, 1).
        weight: of each sample by its time; None is 1.
    """

    def __init__(
        self,
        guide: nn.Module,
        distance: Distance | None = None,
        times: TimeDistribution | None = None,
        weight: LossWeighting | None = None,
    ):
        super().__init__(distance, times, weight)
        self.guide = Frozen(guide)

    def loss(self, velocity: VelocityField, pair: Pair, t: Tensor) -> Tensor:
        """Loss of each sample at its time t (B,), (B,), before any weighting."""
        return velocity_matching_loss(velocity, self.guide, pair, t, distance=self.distance)
