"""One multistep engine for exponential integrators: DPM-Solver, UniPC, DEIS and searched schedules are its
rules.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from .._support.velocities import skipping
from ..errors import FlowlitError
from ..ranges import Float
from ..types import Cond, Observer, Solution, VelocityField
from .base import Counted, GridSolver
from .exponential import Form, Prediction, Variable, exponential_weights, linear_part, singular

MOST_NODES = 4
"""Evaluations that are kept: the order of a predictor at most."""


class StepRule(NamedTuple):
    """Rule of one interval; the order is that of the predictor, which uses as many evaluations.

    Blocks that are skipped are those of the evaluation with which it begins.
    """

    order: int = 1
    prediction: Prediction = "data"
    variable: Variable = "log_snr"
    form: Form = "exact"
    corrector: Form | None = None
    scale: float = 0.0
    skipped: tuple[str, ...] = ()


class Node(NamedTuple):
    """An evaluation: v (B, C, H, W) at x (B, C, H, W), the time t."""

    t: float
    x: Tensor
    v: Tensor

    def prediction(self, kind: Prediction) -> Tensor:
        """Return data x + (1 - t) v, noise x - t v, or the velocity, (B, C, H, W)."""
        if kind == "velocity":
            return self.v
        return self.x + (1 - self.t if kind == "data" else -self.t) * self.v


def multistep(
    velocity: VelocityField,
    x0: Tensor,
    times: Sequence[float],
    rules: Sequence[StepRule],
    cond: Cond = {},
    *,
    mean: Sequence[float] | None = None,
    observe: Observer | None = None,
) -> Solution:
    """Integrate from x0 (B, C, H, W) along times, with a rule for each interval, evaluated once at its start.

    A rule with a corrector uses the evaluation at the end of its interval, which is the next one's start, and
    corrects the state, while the evaluation stays as it is (PEC). There is none at the last time. Steps that
    touch an end of the path are Euler's where a rule has no limit there, and evaluations at an end take no
    part in polynomials of λ or ρ. The observer is shown predictions, at which velocities were evaluated.

    Args:
        velocity: which to follow.
        x0: at the first of the times.
        times: all different, from 0 to 1 or back.
        rules: one fewer; predictors of an order that has too few evaluations have a lower one.
        cond: conditions of the samples.
        mean: of the data, a number for each channel or one: stands for the velocity at 0, mean - x0, which is
            that of every 1-rectified flow, without an evaluation.
        observe: called at the start of each interval.
    """
    x = x0 if x0.dtype == torch.float64 else x0.float()
    v = Counted(velocity, cond, x)
    nodes = [Node(times[0], x, _first(v, x, times[0], mean, rules))]
    for (s, t), rule, following in zip(itertools.pairwise(times), rules, [*rules, None][1:], strict=True):
        if observe is not None:
            observe(x.new_full((x.shape[0],), s), nodes[0].x, nodes[0].v)
        predicted = _advance(x, rule, nodes[: rule.order], s, t, rule.form)
        if following is None:
            return v.solution(predicted)
        new = Node(t, predicted, _evaluated(v, predicted, t, following.skipped))
        corrects = rule.corrector is not None and not singular(rule.prediction, rule.variable, s, t)
        used = [*nodes[: rule.order], new]
        x = _advance(x, rule, used, s, t, rule.corrector or "exact") if corrects else predicted
        nodes = [new, *nodes][:MOST_NODES]
    raise FlowlitError("multistep: there are no times to go along; expected two at least")


def _evaluated(v: Counted, x: Tensor, t: float, skipped: Sequence[str]) -> Tensor:
    """Return the velocity (B, C, H, W) of a network without some of its blocks."""
    with skipping(v.velocity, skipped):
        return v(x, x.new_full((x.shape[0],), t))


def _first(
    v: Counted, x: Tensor, t: float, mean: Sequence[float] | None, rules: Sequence[StepRule]
) -> Tensor:
    """Return the velocity (B, C, H, W) where the way begins, at noise from the mean of the data if given."""
    if mean is None or t != 0:
        return _evaluated(v, x, t, rules[0].skipped if rules else ())
    if len(mean) not in (1, x.shape[1]):
        raise FlowlitError(f"mean has {len(mean)} numbers; expected 1, or {x.shape[1]}, one for each channel")
    return x.new_tensor(list(mean)).reshape(-1, *[1] * (x.ndim - 2)) - x


def _advance(x: Tensor, rule: StepRule, nodes: Sequence[Node], s: float, t: float, form: Form) -> Tensor:
    """Return A x + Σ weight · m, rounded after each operation: a sample's bits are its own in any batch."""
    here, *others = nodes
    kind = rule.prediction
    if singular(kind, rule.variable, s, t):
        others = []
    elif rule.variable != "time":
        others = [node for node in others if 0 < node.t < 1]
    if not others and s in (0, 1):  # x is still where v was evaluated
        return x + (t - s) * here.v
    weights = exponential_weights(kind, rule.variable, [o.t for o in others], s, t, form, rule.scale)
    part = linear_part(kind, s, t) * x
    return part + sum(
        weight * node.prediction(kind) for weight, node in zip(weights, [here, *others], strict=True)
    )


@dataclass
class ExponentialMultistep(GridSolver):
    """Exponential multistep solver with one rule for all steps. NFE = steps, or one fewer with a mean."""

    mean: list[Float] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        """Refuse steps that are too small for float64."""
        super().__post_init__()
        if len(set(self.times())) <= self.steps:
            raise FlowlitError(
                f"{type(self).__name__}: rho={self.rho} makes some of {self.steps} steps empty; take one "
                "nearer to 1"
            )

    @abstractmethod
    def rule(self) -> StepRule:
        """Return the rule of every interval."""

    def _follow(
        self, velocity: VelocityField, x0: Tensor, times: list[float], cond: Cond, observe: Observer | None
    ) -> Solution:
        rules = [self.rule()] * self.steps
        return multistep(velocity, x0, times, rules, cond, mean=self.mean, observe=observe)
