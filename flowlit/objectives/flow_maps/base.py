"""Shared by the objectives of flow maps: intervals, demands on the network, and what is logged."""

from __future__ import annotations

import logging
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from ..._support.velocities import evaluate
from ...errors import FlowlitError
from ...frozen import Frozen
from ...paths.straight import interpolate
from ...ranges import NonNegativeFloat, PositiveFloat
from ...types import Distance, Objective, Pair, VelocityField, reads_of
from ..distances import SquaredError
from ..intervals import IntervalDistribution, StartEnd, check_intervals
from .averages import repeated

RIPPLE = 100
"""Scale of times above which their derivative says nothing."""


class FlowMapObjective(Objective):
    """Objective of an average velocity u(x, t, s), drawn at intervals [t, s].

    Args:
        intervals: None is ``StartEnd``, which MeanFlow takes for CIFAR-10.
        distance: between average velocities; None is the mean squared error.
        guide: a velocity that is followed; None where data or the network itself are. Frozen, absent from
            checkpoints.
        p: power of the adaptive weight, 0 for none.
        c: of the same.
    """

    differentiates_time: bool = False
    """Whether the network is differentiated by t, for which its clock must be smooth."""

    def __init__(
        self,
        intervals: IntervalDistribution | None = None,
        distance: Distance | None = None,
        guide: nn.Module | None = None,
        p: NonNegativeFloat = 0.0,
        c: PositiveFloat = 1e-3,
    ):
        super().__init__()
        self.intervals = intervals or StartEnd()
        self.distance = distance or SquaredError()
        self.guide = None if guide is None else Frozen(guide)
        self.p = p
        self.c = c

    @property
    def times(self) -> IntervalDistribution:
        """Distribution of the training times: intervals, of which ``report`` gets the starts."""
        return self.intervals

    def on_attach(self, module: nn.Module) -> None:
        """Refuse a network without a second time, unless all intervals end at the data; warn of its clock.

        Raises:
            FlowlitError: naming the option that gives it one, or for intervals that are none.
        """
        network: Any = getattr(module, "network", None)
        name = type(self).__name__
        check_intervals(name, self.intervals)
        reads = reads_of(network)
        if self.intervals.to_data:
            module.trains_flow = False  # type: ignore[assignment]
        elif reads is not None and "r" not in reads:
            raise FlowlitError(
                f"{name} trains a flow map u(x, t, r), but {type(network).__name__} has no second time; give "
                "it second_time: true, or intervals: {class_path: flowlit.objectives.intervals.ToData}"
            )
        scale = _time_scale(network)
        if self.differentiates_time and scale > RIPPLE:
            logging.getLogger("flowlit").warning(
                "%s differentiates by time, and time_scale is %g: its derivative is ripple (a central "
                "difference is wrong by 105 %% on digits); give time_scale: 1, or flowlit convert --clock 1 "
                "for trained weights",
                name,
                scale,
            )

    def forward(self, velocity: VelocityField, pair: Pair) -> dict[str, Tensor]:
        """Return {"loss": (), "error": () unweighted, "velocity": () the error where t = s}."""
        t, s = self.intervals(len(pair.x1), pair.x1.device)
        error = self.loss(repeated(velocity, pair.x1), pair, t, s)
        self.report(s if self.intervals.from_noise else t, error)
        equal = (t == s).to(error.dtype)
        instant = (equal * error.detach()).sum() / equal.sum().clamp_min(1)
        return {
            "loss": self.weigh(error, t, s, pair).mean(),
            "error": error.detach().mean(),
            "velocity": instant,
        }

    def weigh(self, error: Tensor, t: Tensor, s: Tensor, pair: Pair) -> Tensor:
        """Return losses (B,) of errors (B,) at t and s (B,), adaptively weighted."""
        return adaptive(error, pair.x1[0].numel(), self.p, self.c)

    @abstractmethod
    def loss(self, velocity: VelocityField, pair: Pair, t: Tensor, s: Tensor) -> Tensor:
        """Return the error of each sample on its interval, t to s (B,), (B,), before any weighting."""


def instant_velocity(guide: VelocityField | None, pair: Pair, t: Tensor) -> Tensor:
    """Return a velocity (B, C, H, W) at x_t: the guide's, or x1 - x0 of the pair, whose mean it is."""
    if guide is None:
        return pair.x1 - pair.x0
    with torch.no_grad():
        return evaluate(guide, interpolate(pair.x0, pair.x1, t), t, pair.cond)


def adaptive(error: Tensor, numbers: int, p: float, c: float) -> Tensor:
    """Return losses e / sg[e + c / D]^p, (B,), of mean squared errors e (B,) over D ``numbers``.

    MeanFlow's weight (2505.13447) of the sum of squares, up to a constant factor. p = 0 leaves the error,
    p = 1 gives every sample a gradient of about the same length, as robust losses do, and biases the mean.
    """
    return error if p == 0 else error / (error.detach() + c / numbers) ** p


def _time_scale(network: Any) -> float:
    """Return the largest scale of times in a network; 1 where it does not say."""
    parts = network.modules() if isinstance(network, nn.Module) else ()
    return max((float(getattr(getattr(part, "time", None), "scale", 1)) for part in parts), default=1.0)
