"""The Eulerian identity, whose start moves: u = v(x, t) + (s - t) du/dt. MeanFlow and its relatives."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ...errors import FlowlitError
from ...paths.straight import expand, interpolate
from ...ranges import Float, Fraction, NonNegativeFloat, PositiveFloat, Probability, Share
from ...types import Distance, Pair, VelocityField
from ..intervals import IntervalDistribution
from .averages import Derivative, average, start_derivative
from .base import FlowMapObjective, instant_velocity

Tangent = Literal["target", "self"]


def mean_flow_loss(
    velocity: VelocityField,
    guide: VelocityField | None,
    pair: Pair,
    t: Tensor,
    s: Tensor,
    *,
    distance: Distance,
    v: Tensor | None = None,
    tangent: Tangent = "target",
    derivative: Derivative = "jvp",
    step: float = 5e-3,
    share: float = 1.0,
) -> Tensor:
    """d( u(x_t, t, s), sg[v + share (s - t) du/dt] ), (B,), at t and s (B,), with du/dt along (v, 1).

    v (B, C, H, W) is the guide's velocity, or x1 - x0 of the pair, or as given; ``tangent="self"`` derives
    along u(x, t, t) instead. Geng et al. 2025 (2505.13447), with time from noise to data. For t = s it is
    ``rectified_flow_loss``. No gradient reaches guide or target.
    """
    x_t = interpolate(pair.x0, pair.x1, t)
    if v is None:
        v = instant_velocity(guide, pair, t)
    u = average(velocity, x_t, t, s, pair.cond)
    with torch.no_grad():
        direction = v if tangent == "target" else average(velocity, x_t, t, t, pair.cond)
        slope = start_derivative(
            velocity, x_t, t, s, direction, pair.cond, u=u, derivative=derivative, step=step
        )
        target = v + share * expand(s - t, x_t) * slope
    return distance(u, target)


def guided_target(velocity: VelocityField, pair: Pair, t: Tensor, *, guidance: float, kappa: float) -> Tensor:
    """ω (x1 - x0) + κ u(x, t, t | c) + (1 - ω - κ) u(x, t, t | ∅), (B, C, H, W), with ω = guidance · (1 - κ).

    Its mean at the minimum is the velocity that is guided by ``guidance``. Where the network hides a label,
    both u are unconditional, and the mean is the plain velocity. Without a gradient; t (B,).

    Raises:
        FlowlitError: without labels.
    """
    if "label" not in pair.cond:
        raise FlowlitError("MeanFlow: guidance needs labels, found none; give them (labels: true for images)")
    omega = guidance * (1 - kappa)
    x_t = interpolate(pair.x0, pair.x1, t)
    others = {name: value for name, value in pair.cond.items() if name != "label"}
    with torch.no_grad():
        free = average(velocity, x_t, t, t, others)
        labelled = average(velocity, x_t, t, t, pair.cond)
    return omega * (pair.x1 - pair.x0) + kappa * labelled + (1 - omega - kappa) * free


class MeanFlow(FlowMapObjective):
    """Learn an average velocity from its own derivative by time: from data, or from a guide's velocity.

    From data it is MeanFlow, with ``tangent: self`` improved MeanFlow (2512.02012). With a guide it is
    distillation (MFD, 2511.13019), with fewer steps and less noise. On stored pairs of a reflow it is
    Re-MeanFlow (2511.23342). ``intervals: ToData`` makes a continuous consistency model, whose network needs
    no second time; with a guide and ``derivative: forward``, ``step: 0.01`` that is velocity matching of
    MDT-dist (2509.04406). The network's clock must be smooth: ``time_scale: 1``.

    Args:
        intervals, distance, guide: see ``FlowMapObjective``.
        tangent: "target", the velocity that is followed, or "self", the network's own, which is less noisy.
        derivative: "jvp", or a difference, "central" of two evaluations or "forward" of one, where forward
            mode is not at hand or takes long. Any is without a gradient.
        step: of a difference; much smaller ones drown in rounding.
        p: power of the adaptive weight, 0 for none. 0.75 to 1 steady the training of images, and bias small
            dimensions.
        c: of the same; MeanFlow has 0.001, for ImageNet's latents 0.01.
        guidance: scale of classifier-free guidance inside the target, without a guide: 1 is none. Sampling
            then needs no guidance. The network needs label_dropout > 0.
        kappa: share of the network's own velocity in that target, above 0 for less noise.
        guided_from: time from which the target is guided.
        share: factor of the derivative, for a warm-up by ``Anneal`` (objective.share).
    """

    differentiates_time = True

    def __init__(
        self,
        intervals: IntervalDistribution | None = None,
        distance: Distance | None = None,
        guide: nn.Module | None = None,
        tangent: Tangent = "target",
        derivative: Derivative = "jvp",
        step: Share = 5e-3,
        p: NonNegativeFloat = 0.0,
        c: PositiveFloat = 1e-3,
        guidance: Float = 1.0,
        kappa: Fraction = 0.0,
        guided_from: Probability = 0.0,
        share: Probability = 1.0,
    ):
        super().__init__(intervals, distance, guide, p, c)
        if guide is not None and (guidance != 1 or kappa):
            raise FlowlitError(
                f"MeanFlow: guidance is {guidance} and kappa {kappa} beside a guide; guide the guide itself, "
                "by flowlit.networks.ClassifierFreeGuidance"
            )
        self.tangent: Tangent = tangent
        self.derivative: Derivative = derivative
        self.step = step
        self.guidance = guidance
        self.kappa = kappa
        self.guided_from = guided_from
        self.share = share

    def loss(self, velocity: VelocityField, pair: Pair, t: Tensor, s: Tensor) -> Tensor:
        """Return the error of each sample on its interval, t to s (B,), (B,)."""
        return mean_flow_loss(
            velocity,
            self.guide,
            pair,
            t,
            s,
            distance=self.distance,
            v=self._target(velocity, pair, t),
            tangent=self.tangent,
            derivative=self.derivative,
            step=self.step,
            share=self.share,
        )

    def _target(self, velocity: VelocityField, pair: Pair, t: Tensor) -> Tensor:
        if self.guidance == 1 and not self.kappa:
            return instant_velocity(self.guide, pair, t)
        v = guided_target(velocity, pair, t, guidance=self.guidance, kappa=self.kappa)
        return torch.where(expand(t >= self.guided_from, v), v, pair.x1 - pair.x0)
