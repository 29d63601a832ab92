"""Improved MeanFlow: the network's own tangent, and guidance that is an input, inside the target."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ... import rng
from ...errors import FlowlitError
from ...paths.straight import expand, interpolate
from ...ranges import NonNegativeFloat, PositiveFloat, Share
from ...types import Distance, Pair, VelocityField, reads_of
from ..intervals import IntervalDistribution
from .averages import Derivative, average
from .mean_flow import MeanFlow


def drawn_guidance(n: int, largest: float, device: torch.device | str = "cpu") -> Tensor:
    """Return n guidances (n, 3): exp(U ln largest), and times from U(0, ½) to U(½, 1)."""
    scale = torch.exp(math.log(largest) * rng.rand(n, device))
    return torch.stack([scale, rng.rand(n, device) / 2, (1 + rng.rand(n, device)) / 2], 1)


def own_guided_target(velocity: VelocityField, pair: Pair, t: Tensor) -> Tensor:
    """x1 - x0 + (1 - 1/ω) (u(x, t, t | c) - u(x, t, t | ∅)), (B, C, H, W), for ``cond["guidance"]`` (B, 3).

    ω is 1 outside the guidance's times. Where u is its own target, that is u_∅ + ω (v_c - u_∅), the velocity
    guided by ω. Where the network hides a label both u are unconditional, and the target is that of the pair.
    Without a gradient; t (B,).

    Raises:
        FlowlitError: without labels.
    """
    if "label" not in pair.cond:
        raise FlowlitError(
            "ImprovedMeanFlow: guidance needs labels, found none; give them (labels: true for images), or "
            "largest_guidance: 1"
        )
    scale, first, last = pair.cond["guidance"].to(t.dtype).unbind(1)
    strength = torch.where((t >= first) & (t <= last), 1 - 1 / scale, 0.0)
    x_t = interpolate(pair.x0, pair.x1, t)
    others = {name: value for name, value in pair.cond.items() if name != "label"}
    with torch.no_grad():
        labelled = average(velocity, x_t, t, t, pair.cond)
        free = average(velocity, x_t, t, t, others)
    return pair.x1 - pair.x0 + expand(strength, x_t).to(x_t.dtype) * (labelled - free)


class ImprovedMeanFlow(MeanFlow):
    """Learn an average velocity, and every guidance of it, from labelled images: iMF (2512.02012).

    ``MeanFlow`` whose derivative is along the network's own velocity, and whose target is guided by a scale
    and on times that are drawn for each sample, and that the network reads: ``GuidanceInput`` around one with
    classes and ``label_dropout``. It is sampled with any guidance by one evaluation a step.

    Args:
        largest_guidance: the scale is drawn log-uniformly from [1, this]; 1 needs no labels and no input.
        intervals, distance, derivative, step, p, c: see ``MeanFlow``; half of iMF's intervals have t = s.
    """

    def __init__(
        self,
        intervals: IntervalDistribution | None = None,
        largest_guidance: PositiveFloat = 8.0,
        distance: Distance | None = None,
        derivative: Derivative = "jvp",
        step: Share = 5e-3,
        p: NonNegativeFloat = 0.0,
        c: PositiveFloat = 1e-3,
    ):
        super().__init__(intervals, distance, tangent="self", derivative=derivative, step=step, p=p, c=c)
        if largest_guidance < 1:
            raise FlowlitError(
                f"ImprovedMeanFlow: largest_guidance is {largest_guidance}; expected 1, for none, or more"
            )
        self.largest_guidance = largest_guidance

    def on_attach(self, module: nn.Module) -> None:
        """Refuse a network that does not read its guidance.

        Raises:
            FlowlitError: naming the wrapper that does.
        """
        super().on_attach(module)
        network: Any = getattr(module, "network", None)
        if self.largest_guidance > 1 and "guidance" not in (reads_of(network) or ()):
            raise FlowlitError(
                f"ImprovedMeanFlow: {type(network).__name__} does not read a guidance; expected one inside "
                "flowlit.networks.GuidanceInput, or largest_guidance: 1"
            )

    def loss(self, velocity: VelocityField, pair: Pair, t: Tensor, s: Tensor) -> Tensor:
        """Return the error of each sample on its interval, t to s (B,), at a guidance of its own, (B,)."""
        if self.largest_guidance > 1:
            guidance = drawn_guidance(len(t), self.largest_guidance, t.device)
            pair = pair._replace(cond={**pair.cond, "guidance": guidance})
        return super().loss(velocity, pair, t, s)

    def _target(self, velocity: VelocityField, pair: Pair, t: Tensor) -> Tensor:
        return own_guided_target(velocity, pair, t) if "guidance" in pair.cond else pair.x1 - pair.x0
