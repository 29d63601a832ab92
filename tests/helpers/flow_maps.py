"""Every objective of flow maps in its forms, and a student for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tools import randomise, tiny_unet
from torch import nn

from flowlit.networks import GuidanceInput
from flowlit.objectives.flow_maps import (
    Consistency,
    FlowMapObjective,
    ImprovedMeanFlow,
    Lagrangian,
    MeanFlow,
    OnTrajectories,
    Splitting,
    VelocityDistillation,
)
from flowlit.objectives.intervals import Dyadic, FromNoise, Ordered
from flowlit.objectives.times import Uniform
from flowlit.solvers import Heun

GUIDE = randomise(tiny_unet(multipliers=(1,), attention_resolutions=()), seed=9, scale=0.1)
"""The same in every process."""

OBJECTIVES: dict[str, Callable[[], FlowMapObjective]] = {
    "mean flow": lambda: MeanFlow(p=0.75),
    "mean flow, own tangent, central": lambda: MeanFlow(tangent="self", derivative="central"),
    "mean flow, guide": lambda: MeanFlow(guide=GUIDE, derivative="forward"),
    "splitting": lambda: Splitting(Dyadic(equal=0.5), shortest=2**-7, clip=4.0),
    "splitting, data": lambda: Splitting(first="data", split=0.5, p=1.0),
    "splitting, guide": lambda: Splitting(Ordered(Uniform()), guide=GUIDE, second="guide", split=None),
    "lagrangian": lambda: Lagrangian(derivative="forward"),
    "lagrangian, guide": lambda: Lagrangian(FromNoise(), guide=GUIDE),
    "consistency": lambda: Consistency(),
    "consistency, guide": lambda: Consistency(guide=GUIDE),
    "velocity distillation": lambda: VelocityDistillation(GUIDE),
}

ON_TRAJECTORIES: dict[str, Callable[[], FlowMapObjective]] = {
    "trajectories, solved": lambda: OnTrajectories(GUIDE, Heun(3), draws=2),
    "trajectories, stored": lambda: OnTrajectories(draws=2),
}

ATTACHED: dict[str, Callable[[], FlowMapObjective]] = {
    "splitting, average": lambda: Splitting(Dyadic(equal=0.5), shortest=2**-7, targets="average"),
    "improved mean flow": lambda: ImprovedMeanFlow(Ordered(Uniform(), equal=0.5), derivative="central"),
}
"""Those that need a module, or a network of their own: ``guided_student``."""


def guided_student(**changes: Any) -> nn.Module:
    """A student that reads classes and a guidance."""
    return GuidanceInput(student(**{"num_classes": 10, "label_dropout": 0.2, **changes}))


def student(**changes: Any) -> nn.Module:
    """A network with a second time and a smooth clock, the same in every process."""
    settings = {"multipliers": (1,), "attention_resolutions": (), "second_time": True, "time_scale": 1.0}
    return randomise(tiny_unet(**{**settings, **changes}), scale=0.1)
