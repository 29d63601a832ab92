"""The semigroup identity: a jump is two jumps. Shortcut models, SplitMeanFlow, AlphaFlow."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from ... import rng
from ..._support.velocities import evaluate
from ...errors import FlowlitError
from ...paths.straight import expand, interpolate
from ...ranges import NonNegativeFloat, PositiveFloat, Probability
from ...types import Cond, Distance, Pair, VelocityField
from ..intervals import IntervalDistribution
from .averages import average, jump, likewise
from .base import FlowMapObjective, instant_velocity

First = Literal["self", "data", "guide"]
Second = Literal["self", "guide"]
Targets = Literal["trained", "average"]


def splitting_loss(
    velocity: VelocityField,
    guide: VelocityField | None,
    pair: Pair,
    t: Tensor,
    s: Tensor,
    *,
    m: Tensor,
    distance: Distance,
    first: First = "self",
    second: Second = "self",
    shortest: float = 0.0,
    clip: float | None = None,
    targets: VelocityField | None = None,
) -> Tensor:
    """d( u(x_t, t, s), sg[(1 - w) u₁ + w u₂] ), (B,), with legs t → m → s (B,) and w = (s - m) / (s - t).

    A leg is the network's own average velocity, or that of ``targets``, the velocity if the leg is not longer
    than ``shortest``, the pair's x1 - x0 ("data"), or the guide's velocity at its start. Where t = s the
    target is the guide's velocity or x1 - x0. Shortcut models (2410.12557), SplitMeanFlow (2507.16884),
    AlphaFlow (2510.20771); with t = 0, s = 1 and the guide's second leg it is ``flow_guided_loss``.
    """
    x_t = interpolate(pair.x0, pair.x1, t)
    u = average(velocity, x_t, t, s, pair.cond)
    own = None if "guide" not in (first, second) else guide

    def leg(source: First, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
        if source == "data":
            return pair.x1 - pair.x0
        if source == "guide":
            return _of_guide(guide, x, start, pair.cond)
        legs = velocity if targets is None else targets
        return average(legs, x, start, torch.where(end - start > shortest, end, start), pair.cond)

    with torch.no_grad():
        u1 = leg(first, x_t, t, m)
        u2 = leg(second, jump(x_t, u1, t, m), m, s)
        w = torch.where(s > t, (s - m) / torch.where(s > t, s - t, 1.0), 0.0)
        target = torch.lerp(u1, u2, expand(w, u1).to(u1.dtype))
        target = target if clip is None else target.clamp(-clip, clip)
        target = torch.where(expand(s > t, target), target, instant_velocity(own, pair, t))
    return distance(u, target)


def _of_guide(guide: VelocityField | None, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    if guide is None:
        raise FlowlitError("splitting: a leg of the guide, but there is no guide; give one")
    return evaluate(guide, x, t, cond)


class Splitting(FlowMapObjective):
    """Learn a jump from two jumps without a derivative: shortcut models, SplitMeanFlow, AlphaFlow.

    Shortcut models: ``intervals: Dyadic``, ``split: 0.5``, ``shortest: 0.0078125``, ``clip: 4``, ``targets:
    average``.
    SplitMeanFlow: ``split: null``. AlphaFlow: ``first: data`` and ``split`` moved by ``Anneal`` from 1
    (regression onto straight lines) towards 0.005 (nearly MeanFlow). Progressive distillation: both legs of a
    guide. Without a guide most intervals must have t = s, three in four or more, or trivial maps are found.

    Args:
        intervals, distance, guide: see ``FlowMapObjective``.
        first: the leg from t: "self", the network's average velocity, "data", or "guide".
        second: the leg to s: "self" or "guide".
        split: place of the middle time in the interval; null draws it uniformly.
        shortest: legs not longer than this are steps of the velocity u(x, t, t).
        clip: bound of the target's entries; null is none.
        targets: whose own legs are: those of the "trained" weights, or of their "average", the ``EMA``
            callback's ema, with the same dropout and hidden labels.
        p: power of the adaptive weight, see ``MeanFlow``.
        c: of the same.
    """

    def __init__(
        self,
        intervals: IntervalDistribution | None = None,
        distance: Distance | None = None,
        guide: nn.Module | None = None,
        first: First = "self",
        second: Second = "self",
        split: Probability | None = 0.5,
        shortest: Probability = 0.0,
        clip: PositiveFloat | None = None,
        p: NonNegativeFloat = 0.0,
        c: PositiveFloat = 1e-3,
        targets: Targets = "trained",
    ):
        super().__init__(intervals, distance, guide, p, c)
        if (guide is None) == ("guide" in (first, second)):
            given = "no guide" if guide is None else "a guide"
            raise FlowlitError(
                f"Splitting: {given}, with first: {first} and second: {second}; expected a guide if, and "
                "only if, a leg is the guide's"
            )
        self.first: First = first
        self.second: Second = second
        self.split = split
        self.shortest = shortest
        self.clip = clip
        self.targets: Targets = targets
        self._averages: tuple[Any, ...] = ()

    def on_attach(self, module: nn.Module) -> None:
        """Keep the module's averages for the targets, beside what every flow map demands."""
        super().on_attach(module)
        self._averages = (getattr(module, "averages", None),)  # no part of this, which is a part of them

    def _targets(self, velocity: VelocityField) -> VelocityField | None:
        """Return the network of the targets; None for the trained one."""
        if self.targets == "trained":
            return None
        averages = self._averages[0] if self._averages else None
        if averages is None or "ema" not in averages.metadata:
            raise FlowlitError(
                "Splitting: targets of the average, but nothing averages the weights; add the callback "
                "flowlit.callbacks.EMA, or targets: trained"
            )
        return likewise(averages.ema, velocity)

    def loss(self, velocity: VelocityField, pair: Pair, t: Tensor, s: Tensor) -> Tensor:
        """Return the error of each sample on its interval, t to s (B,), (B,)."""
        split = rng.rand(len(t), t.device) if self.split is None else self.split
        return splitting_loss(
            velocity,
            self.guide,
            pair,
            t,
            s,
            m=t + split * (s - t),
            distance=self.distance,
            first=self.first,
            second=self.second,
            shortest=self.shortest,
            clip=self.clip,
            targets=self._targets(velocity),
        )

    def weigh(self, error: Tensor, t: Tensor, s: Tensor, pair: Pair) -> Tensor:
        """Return losses (B,) of errors (B,), adaptively weighted, with gradients of one size for any split.

        With the data's first leg a difference from the target is proportional to the split; where t < s (B,),
        the loss is divided by what follows from that.
        """
        loss = super().weigh(error, t, s, pair)
        if self.first != "data" or not self.split:
            return loss
        return torch.where(s > t, self.split ** (2 * self.p - 1) * loss, loss)
