"""Exponential rules whose steps start from the last state alone: in the log-SNR, and in noise over signal."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from ..types import Cond, Observer, Solution, VelocityField
from .base import Counted
from .exponential import Prediction, distance, exponential_weights, linear_part, place, singular
from .exponential_multistep import Node

Kind = Literal["midpoint", "taylor"]
Rule = Callable[[Counted, Node, float, int], Tensor]
"""(v, evaluation at the start, end of the step, order) -> state at the end."""

THIRDS = (1 / 3, 2 / 3)
"""Inner nodes of the third-order step. It is of third order only for the second of them at two thirds."""

TABLEAUX: dict[int, tuple[tuple[float, ...], ...]] = {
    2: ((1.0,), (1 / 2, 1 / 2)),
    3: ((1 / 2,), (-1.0, 2.0), (1 / 6, 4 / 6, 1 / 6)),
    4: ((1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0), (1 / 6, 2 / 6, 2 / 6, 1 / 6)),
}
"""Heun's, Kutta's and the classical rule: weights of each stage, whose sum is its node, and of the end."""


def march_evaluated(
    velocity: VelocityField,
    x0: Tensor,
    times: Sequence[float],
    orders: Sequence[int],
    cond: Cond,
    rule: Rule,
    prediction: Prediction,
    observe: Observer | None = None,
) -> Solution:
    """Apply a rule along times from x0 (B, C, H, W); Euler's on the steps that touch an end of the path."""
    x = x0 if x0.dtype == torch.float64 else x0.float()
    v = Counted(velocity, cond, x)
    for (s, t), order in zip(itertools.pairwise(times), orders, strict=True):
        here = evaluated(v, x, s)
        if observe is not None:
            observe(x.new_full((x.shape[0],), s), x, here.v)
        is_euler = order == 1 or singular(prediction, "log_snr", s, t)
        x = x + (t - s) * here.v if is_euler else rule(v, here, t, order)
    return v.solution(x)


def evaluated(v: Counted, x: Tensor, t: float) -> Node:
    """Return an evaluation at x (B, C, H, W) and t."""
    return Node(t, x, v(x, x.new_full((x.shape[0],), t)))


def follow(
    velocity: VelocityField,
    x0: Tensor,
    times: Sequence[float],
    orders: Sequence[int],
    cond: Cond = {},
    *,
    prediction: Literal["data", "noise"] = "data",
    kind: Kind = "midpoint",
    thirds: tuple[float, float] = THIRDS,
    observe: Observer | None = None,
) -> Solution:
    """Integrate from x0 (B, C, H, W) along times, each interval by a step of DPM-Solver's of its order.

    An order of 1, 2 or 3 is also the number of evaluations. Lu et al. 2022 (2206.00927), algorithms 1 and 2.
    """

    def rule(v: Counted, here: Node, t: float, order: int) -> Tensor:
        if order == 2:
            middle = evaluated(v, euler(here, between(here.t, t, 0.5)), between(here.t, t, 0.5))
            return exponential_step(here, [middle], t, prediction, kind)
        first, second = (between(here.t, t, r) for r in thirds)
        one = evaluated(v, euler(here, first), first)
        two = evaluated(v, exponential_step(here, [one], second, prediction, "taylor"), second)
        inner = [one, two] if kind == "taylor" else [two]
        return exponential_step(here, inner, t, prediction, "taylor")

    return march_evaluated(velocity, x0, times, orders, cond, rule, prediction, observe)


def euler(here: Node, t: float) -> Tensor:
    """Return the state (B, C, H, W) at t on a straight line from an evaluation."""
    return here.x + (t - here.t) * here.v


def between(s: float, t: float, share: float) -> float:
    """Return the time at a share of the way from s to t in the log-SNR."""
    odds = (s / (1 - s)) ** (1 - share) * (t / (1 - t)) ** share
    return odds / (1 + odds)


def exponential_step(
    here: Node, others: Sequence[Node], t: float, prediction: Prediction, kind: Kind
) -> Tensor:
    """Return the state (B, C, H, W) at t by the polynomial of the prediction in the log-SNR."""
    form: Literal["exact", "midpoint"] = "exact" if kind == "taylor" else "midpoint"
    weights = exponential_weights(prediction, "log_snr", [o.t for o in others], here.t, t, form)
    part = linear_part(prediction, here.t, t) * here.x
    return part + sum(w * n.prediction(prediction) for w, n in zip(weights, [here, *others], strict=True))


def rho_runge_kutta(v: Counted, here: Node, t: float, order: int, prediction: Prediction) -> Tensor:
    """Return the state (B, C, H, W) at t by a Runge-Kutta rule for y = x / t in noise over signal.

    dy = ẑ dρ with ρ = (1 - t) / t (DEIS's ρRK, 2204.13902); of the data, y = x / (1 - t) and its inverse.
    """
    start = place(here.t, prediction)
    h = distance("rho", start, place(t, prediction))
    slopes = [here.prediction(prediction)]
    for weights in TABLEAUX[order]:
        odds = start.signal / start.noise + sum(weights) * h
        is_last = weights is TABLEAUX[order][-1]
        inner = odds / (1 + odds) if prediction == "data" else 1 / (1 + odds)
        time = t if is_last else inner
        factor = place(time, prediction).noise * h
        x = linear_part(prediction, here.t, time) * here.x
        x = x + sum(factor * w * slope for w, slope in zip(weights, slopes, strict=True))
        if not is_last:
            slopes.append(evaluated(v, x, time).prediction(prediction))
    return x
