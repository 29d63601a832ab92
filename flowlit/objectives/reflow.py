"""Regression of a velocity onto straight lines.

Rectified flow, reflow and annealed reflow are one loss over three couplings.
"""

from __future__ import annotations

from torch import Tensor

from .. import rng
from .._support.velocities import evaluate
from ..paths import NoisedImage
from ..paths.straight import anneal, interpolate
from ..ranges import Probability
from ..types import Distance, LossWeighting, Objective, Pair, TimeDistribution, VelocityField
from .distances import SquaredError
from .times import Uniform


def rectified_flow_loss(velocity: VelocityField, pair: Pair, t: Tensor, *, distance: Distance) -> Tensor:
    """d( v(x_t, t), x1 - x0 ), (B,), at t (B,).

    Liu et al. 2022 (2209.03003), eq. 1. With pairs made by a teacher it is reflow.
    """
    x_t = interpolate(pair.x0, pair.x1, t)
    return distance(evaluate(velocity, x_t, t, pair.cond), pair.x1 - pair.x0)


def annealed_reflow_loss(
    velocity: VelocityField,
    pair: Pair,
    t: Tensor,
    noise: Tensor,
    *,
    distance: Distance,
    beta: float,
    start: NoisedImage | None = None,
) -> Tensor:
    """Rectified-flow loss, (B,), on the pair whose x0 is mixed with a share beta of fresh noise (B, C, H, W).

    SlimFlow (2407.12718), section 3.1. The target uses the mixed noise, too. If x0 starts from an image,
    ``cond["image"]``, that stays, and its noise is mixed.
    """
    if start is None:
        x0 = anneal(pair.x0, noise, beta)
    else:
        x0 = start.annealed(pair.x0, pair.cond["image"], noise, beta)
    return rectified_flow_loss(velocity, pair._replace(x0=x0), t, distance=distance)


def weighted_mean(loss: Tensor, t: Tensor, weight: LossWeighting | None) -> Tensor:
    """Average losses (B,) over the batch, each times w(t) at its time t (B,); None is w = 1."""
    return (loss if weight is None else weight(t) * loss).mean()


class RectifiedFlow(Objective):
    """Regress onto the coupling as it is.

    Independent noise gives a 1-rectified flow (teacher), stored pairs give reflow. With ``times: Grid(k)`` on
    stored pairs it is k-step distillation in velocity form.

    Args:
        distance: between velocities; None is the mean squared error, whose minimum is the mean velocity.
        times: distribution of the training times; None is uniform on [0, 1). ``LogitNormal`` for teachers,
            ``UShaped`` for reflow of a good teacher.
        weight: of each sample by its time; None is 1.
    """

    def __init__(
        self,
        distance: Distance | None = None,
        times: TimeDistribution | None = None,
        weight: LossWeighting | None = None,
    ):
        super().__init__()
        self.distance = distance or SquaredError()
        self.times = times or Uniform()
        self.weight = weight

    def forward(self, velocity: VelocityField, pair: Pair) -> dict[str, Tensor]:
        """Return {"loss": ()}."""
        t = self.times(len(pair.x1), pair.x1.device)
        loss = self.loss(velocity, pair, t)
        self.report(t, loss)
        return {"loss": weighted_mean(loss, t, self.weight)}

    def loss(self, velocity: VelocityField, pair: Pair, t: Tensor) -> Tensor:
        """Loss of each sample at its time t (B,), (B,), before any weighting."""
        return rectified_flow_loss(velocity, pair, t, distance=self.distance)


class AnnealedReflow(RectifiedFlow):
    """Annealing reflow: from fresh noise (beta = 1) to the stored pairs (beta = 0).

    Use it to train a small network from random initialisation on a large teacher's pairs. ``beta`` is set
    before each step by the ``Anneal`` callback; left at 0 this is ``RectifiedFlow``.

    Args:
        distance, times, weight: as for ``RectifiedFlow``.
        beta: share of fresh noise.
        start: law of x0 given ``cond["image"]``, for pairs of super-resolution, the same as the teacher's;
            None is N(0, I).
    """

    def __init__(
        self,
        distance: Distance | None = None,
        times: TimeDistribution | None = None,
        weight: LossWeighting | None = None,
        beta: Probability = 0.0,
        start: NoisedImage | None = None,
    ):
        super().__init__(distance, times, weight)
        self.beta = beta
        self.start = start

    def loss(self, velocity: VelocityField, pair: Pair, t: Tensor) -> Tensor:
        """Loss of each sample at its time t (B,), (B,), with noise drawn afresh."""
        noise = rng.randn_like(pair.x0)
        return annealed_reflow_loss(
            velocity, pair, t, noise, distance=self.distance, beta=self.beta, start=self.start
        )
