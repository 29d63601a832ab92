"""Distillation of a flow to one step: onto precise endpoints, and onto those of two steps (flow guidance)."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn

from .. import rng
from .._support.velocities import evaluate
from ..errors import FlowlitError
from ..frozen import Frozen
from ..paths.straight import endpoint, expand
from ..ranges import Float, Name, PositiveInt
from ..types import Cond, Distance, LossWeighting, Objective, Pair, TimeDistribution, VelocityField
from .distances import SquaredError
from .reflow import RectifiedFlow, weighted_mean
from .times import Grid, Uniform

FirstStep = Literal["student", "guide"]


def one_step(velocity: VelocityField, x0: Tensor, cond: Cond = {}) -> tuple[Tensor, Tensor]:
    """Jump from the noise end x0 (B, C, H, W): return x0 + v(x0, 0) and v(x0, 0)."""
    v = evaluate(velocity, x0, x0.new_zeros(len(x0), dtype=torch.float32), cond)
    return x0 + v, v


def distillation_loss(velocity: VelocityField, pair: Pair, *, distance: Distance) -> Tensor:
    """d( x0 + v(x0, 0), x1 ), (B,), where x1 is the ODE's endpoint from x0.

    Liu et al. 2022 (2209.03003), section 2.2.
    """
    jump, _ = one_step(velocity, pair.x0, pair.cond)
    return distance(jump, pair.x1)


def flow_guided_loss(
    velocity: VelocityField,
    guide: VelocityField,
    pair: Pair,
    t: Tensor,
    noise: Tensor,
    *,
    distance: Distance,
    first_step: FirstStep = "student",
) -> Tensor:
    """d( x0 + v(x0, 0), two Euler steps 0 → t → 1 ), (B,), with x0 = fresh noise (B, C, H, W) and t (B,).

    SlimFlow (2407.12718), section 3.2. Of the pair only the condition is used. The second step is the
    guide's. The first is the guide's, too (``first_step="guide"``, the paper's formula), or the student's
    own jump without gradient (``"student"``, what the paper ran: one guide call less). No gradient reaches
    guide or target.
    """
    jump, v = one_step(velocity, noise, pair.cond)
    with torch.no_grad():
        v0 = v.detach() if first_step == "student" else one_step(guide, noise, pair.cond)[1]
        x_t = noise + expand(t, noise) * v0
        target = endpoint(x_t, evaluate(guide, x_t, t, pair.cond), t)
    return distance(jump, target)


class Distillation(Objective):
    """Regress one step onto the precise endpoints of stored or simulated pairs."""

    def __init__(self, distance: Distance | None = None):
        super().__init__()
        self.distance = distance or SquaredError()

    def forward(self, velocity: VelocityField, pair: Pair) -> dict[str, Tensor]:
        """Return {"loss": ()}."""
        return {"loss": distillation_loss(velocity, pair, distance=self.distance).mean()}


class KStepDistillation(RectifiedFlow):
    """Distil to k Euler steps: rectified-flow loss on stored pairs at the times 0, 1/k, …, (k-1)/k.

    Rectified Flow's k-step distillation, in velocity form: these are the times that k Euler steps visit. For
    k = 1 with the squared error it is ``Distillation``.
    """

    def __init__(self, k: PositiveInt, distance: Distance | None = None):
        super().__init__(distance, times=Grid(k))


class FlowGuided(Objective):
    """Regress one step onto a two-step estimate by a frozen guide, on noise drawn afresh for every batch.

    Precise pairs are finite; this target is rough but unlimited, and regularises a small student.

    Args:
        guide: the small 2-rectified flow; frozen, absent from checkpoints.
        times: distribution of the middle time; None is uniform on [0.2, 0.8), as in the reference code.
        first_step: "student" or "guide", see ``flow_guided_loss``.
        weight: of each sample by its middle time; None is 1.
    """

    def __init__(
        self,
        guide: nn.Module,
        distance: Distance | None = None,
        times: TimeDistribution | None = None,
        first_step: FirstStep = "student",
        weight: LossWeighting | None = None,
    ):
        super().__init__()
        self.guide = Frozen(guide)
        self.distance = distance or SquaredError()
        self.times = times or Uniform(0.2, 0.8)
        self.first_step: FirstStep = first_step
        self.weight = weight

    def forward(self, velocity: VelocityField, pair: Pair) -> dict[str, Tensor]:
        """Return {"loss": ()}."""
        noise = rng.randn_like(pair.x0)
        t = self.times(len(noise), noise.device)
        loss = flow_guided_loss(
            velocity, self.guide, pair, t, noise, distance=self.distance, first_step=self.first_step
        )
        self.report(t, loss)
        return {"loss": weighted_mean(loss, t, self.weight)}


class Combined(Objective):
    """Add objectives on the same pair: loss = Σ weight · loss, each part logged under its name.

    SlimFlow's total is ``{"distillation": Distillation, "two_step": FlowGuided}`` with weights 1.
    """

    def __init__(self, objectives: dict[Name, Objective], weights: dict[str, Float] | None = None):
        super().__init__()
        if not objectives:
            raise FlowlitError("Combined: objectives is empty; expected at least one, by name")
        self.objectives = nn.ModuleDict(objectives)
        self.keeps = frozenset().union(*(objective.keeps for objective in objectives.values()))
        self.weights = weights or {}
        if unknown := set(self.weights) - set(objectives):
            raise FlowlitError(
                f"Combined: weights for {sorted(unknown)}, but the objectives are {sorted(objectives)}"
            )

    def forward(self, velocity: VelocityField, pair: Pair) -> dict[str, Tensor]:
        """Return {"loss": (), and each part's loss, ()}."""
        objectives = cast(dict[str, Objective], self.objectives)
        return self.add(
            {name: part(velocity, self.given(part, pair))["loss"] for name, part in objectives.items()}
        )

    def given(self, part: Objective, pair: Pair) -> Pair:
        """Return a pair without the conditions that are for other parts than this one."""
        others = self.keeps - part.keeps
        return pair._replace(cond={name: x for name, x in pair.cond.items() if name not in others})

    def conditions(self, cond: Cond) -> Cond:
        """Return those conditions (B, …) of the data that every part gives the network."""
        objectives = cast(dict[str, Objective], self.objectives)
        given = [part.conditions(cond) for part in objectives.values()]
        return {name: value for name, value in cond.items() if all(name in names for names in given)}

    def add(self, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return {"loss": weighted sum (), and each part () by name}."""
        total = torch.stack([self.weights.get(name, 1.0) * part for name, part in parts.items()]).sum()
        return {"loss": total, **parts}

    def on_attach(self, module: nn.Module) -> None:
        for objective in self.objectives.values():
            cast(Objective, objective).on_attach(module)
