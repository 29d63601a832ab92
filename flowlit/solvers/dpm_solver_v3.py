"""DPM-Solver-v3: a prediction measured on the network, pixel by pixel. Zheng et al. 2023 (2310.13268)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import FlowlitError
from ..types import Cond, Observer, Solution, VelocityField
from .base import Counted, GridSolver
from .model_statistics import Coefficients, ModelStatistics, nearest


class Integrals(NamedTuple):
    """Cumulative integrals of the coefficients over λ, and the coefficients, (nodes, C, H, W) each."""

    levels: Tensor  # (nodes,)
    l: Tensor  # noqa: E741
    whole_l: Tensor  # L = ∫ l
    whole_s: Tensor  # S = ∫ s
    whole_b: Tensor  # B = ∫ e^(-S) b


def integrals(c: Coefficients) -> Integrals:
    """Return the integrals by the trapezium, where each piece of an exponential is its exact one."""
    levels = c.levels().to(c.l.device)
    width = (levels[1] - levels[0]).item()

    def whole(values: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(values[:1]), ((values[1:] + values[:-1]) * width / 2).cumsum(0)])

    whole_s = whole(c.s)
    cells = _cells(-whole_s, c.b, width)
    return Integrals(
        levels, c.l, whole(c.l), whole_s, torch.cat([torch.zeros_like(cells[:1]), cells.cumsum(0)])
    )


def _cells(exponent: Tensor, factor: Tensor, width: float) -> Tensor:
    """Return ∫ e^exponent · factor over each cell, both linear in it, (nodes - 1, C, H, W)."""
    k = exponent[1:] - exponent[:-1]
    small = k.abs() < 1e-3
    safe = torch.where(small, torch.ones_like(k), k)
    constant = torch.where(small, 1 + k / 2 + k**2 / 6, torch.expm1(safe) / safe)
    linear = torch.where(small, 0.5 + k / 3 + k**2 / 8, (torch.exp(safe) * (safe - 1) + 1) / safe**2)
    return width * exponent[:-1].exp() * (factor[:-1] * (constant - linear) + factor[1:] * linear)


def over_step(i: Integrals, s: int, t: int, order: int) -> tuple[list[Tensor], Tensor]:
    """Return E_k = ∫ e^(L + S) (λ - λ_s)^k / k! for k below the order, and ∫ e^(L + S) (B - B_s), (C, H, W).

    L and S begin at the node s; the step goes to the node t, backwards with a sign.
    """
    low, high = sorted((s, t))
    part = slice(low, high + 1)
    both = i.whole_l[part] - i.whole_l[s] + i.whole_s[part] - i.whole_s[s]
    way = (i.levels[part] - i.levels[s]).reshape(-1, 1, 1, 1)
    width = (i.levels[1] - i.levels[0]).item()
    sign = 1.0 if t >= s else -1.0
    factors = [way**k / math.factorial(k) * torch.ones_like(both) for k in range(order)]
    factors.append(i.whole_b[part] - i.whole_b[s])
    *powers, shift = (sign * _cells(both, factor, width).sum(0) for factor in factors)
    return powers, shift


class Evaluated(NamedTuple):
    """f (B, C, H, W) at a node of the statistics' grid."""

    node: int
    f: Tensor


def derivative_weights(distances: Sequence[float], pseudo: bool) -> list[list[float]]:
    """Return the weights of g at nodes, the first at distance 0, in each of its derivatives there.

    Solved for, or each by as few nodes as it takes ("pseudo-order": k! times the divided difference).
    """
    num = len(distances)
    if not pseudo:
        rows = [[d**k / math.factorial(k) for k in range(num)] for d in distances]
        return np.linalg.inv(np.array(rows)).tolist()
    weights = []
    for k in range(num):
        used = distances[: k + 1]
        row = [math.factorial(k) / math.prod(d - e for e in used if e != d) for d in used]
        weights.append([*row, *[0.0] * (num - k - 1)])
    return weights


def advance(x: Tensor, i: Integrals, t: int, evaluated: Sequence[Evaluated], pseudo: bool = False) -> Tensor:
    """Return the state (B, C, H, W) at a node t from that at the first evaluation's node."""
    s = evaluated[0].node
    powers, shift = over_step(i, s, t, len(evaluated))
    ratio = (i.whole_l[s] - i.whole_l[t]).exp()
    time = torch.sigmoid(i.levels[t])
    start = torch.sigmoid(i.levels[s])
    weights = derivative_weights([(i.levels[e.node] - i.levels[s]).item() for e in evaluated], pseudo)
    change = (i.whole_s[s].exp() * shift)[None].to(x.dtype)
    for j, each in enumerate(evaluated):
        weight = sum(power * row[j] for power, row in zip(powers, weights, strict=True))
        g = (i.whole_s[s] - i.whole_s[each.node]).exp().to(x.dtype) * each.f
        g = g - (i.whole_s[s].exp() * (i.whole_b[each.node] - i.whole_b[s])).to(x.dtype)
        change = change + torch.as_tensor(weight).to(x.dtype) * g
    return (time / start * ratio).to(x.dtype) * x - (time * ratio).to(x.dtype) * change


@dataclass
class DPMSolverV3(GridSolver):
    """DPM-Solver-v3, for 4 to 10 steps of a network whose statistics ``flowlit statistics`` has estimated.

    Euler's rule in the steps that touch 0 and 1; the times between go to the nearest nodes of the statistics,
    whose range they have to be in. NFE = steps.

    Args:
        steps: intervals, at least 1.
        rho: warps the grid, see ``time_grid``.
        grid: times of one's own; None is ``Power(rho)``.
        statistics: of the velocity, as ``flowlit.networks.StoredStatistics(path)``; those of another network,
            or of another guidance, are refused.
        order: evaluations that the predictor uses, 1 to 3.
        pseudo: each derivative of the predictor by as few evaluations as it takes; for 5 steps and fewer.
        corrector: correct each step by the evaluation at its end.
    """

    statistics: ModelStatistics | None = None
    order: Literal[1, 2, 3] = 2
    pseudo: bool = False
    corrector: bool = True

    one_way: ClassVar[str] = "has statistics of the way to data alone"

    def __post_init__(self) -> None:
        """Refuse to go without statistics."""
        super().__post_init__()
        if self.statistics is None:
            raise FlowlitError(
                "DPMSolverV3: statistics is None; expected flowlit.networks.StoredStatistics(path), which "
                "flowlit statistics writes"
            )

    def _follow(
        self, velocity: VelocityField, x0: Tensor, times: list[float], cond: Cond, observe: Observer | None
    ) -> Solution:
        assert self.statistics is not None
        coefficients = self.statistics.coefficients(velocity)
        i = integrals(Coefficients(*(_on(value, x0) for value in coefficients)))
        places = self._places(times, coefficients)
        solution = _march(velocity, x0, cond, places, i, self, observe)
        # a grid that stops early is divided by its last time, and the state is that of the node beside it
        return solution._replace(x1=solution.x1 * (times[-1] / _time(places[-1], i)))

    def _places(self, times: list[float], c: Coefficients) -> list[float | int]:
        """Return times, those between 0 and 1 as their nearest node."""
        nodes = [nearest(t, c) for t in times if 0 < t < 1]
        if len(set(nodes)) < len(nodes):
            raise FlowlitError(
                f"DPMSolverV3: {self.steps} steps come to the same of {len(c.l)} nodes of the statistics; "
                "take fewer, or estimate them at more nodes (flowlit statistics --nodes)"
            )
        return [*(t for t in times if t == 0), *nodes, *(t for t in times if t == 1)]


def _on(value: Any, like: Tensor) -> Any:
    return value.to(like.device) if isinstance(value, Tensor) else value


def _march(
    velocity: VelocityField,
    x0: Tensor,
    cond: Cond,
    places: Sequence[float | int],
    i: Integrals,
    solver: DPMSolverV3,
    observe: Observer | None,
) -> Solution:
    """Integrate from x0 (B, C, H, W) along places: times (floats) by Euler's rule, and nodes (ints)."""
    x = x0 if x0.dtype == torch.float64 else x0.float()
    v = Counted(velocity, cond, x)
    known: list[Evaluated] = []
    slope = x
    shown = x
    for place, following in itertools.pairwise(places):
        t = _time(place, i)
        if not known or not isinstance(place, int):
            slope, known = _evaluate(v, x, place, i, known)
            shown = x
        if observe is not None:
            observe(x.new_full((len(x),), t), shown, slope)
        if not (isinstance(place, int) and isinstance(following, int)):
            end = _time(following, i)  # towards the data predicted where the velocity was evaluated
            x = (1 - end) / (1 - t) * x + (end - t) / (1 - t) * (shown + (1 - t) * slope)
            known = []
            continue
        predicted = advance(x, i, following, known[: solver.order], solver.pseudo)
        slope, after = _evaluate(v, predicted, following, i, known)
        shown = predicted
        used = [known[0], after[0], *known[1 : solver.order]]
        x = advance(x, i, following, used) if solver.corrector else predicted
        known = after[:3]
    return v.solution(x)


def _time(place: float | int, i: Integrals) -> float:
    return torch.sigmoid(i.levels[place]).item() if isinstance(place, int) else place


def _evaluate(
    v: Counted, x: Tensor, place: float | int, i: Integrals, known: list[Evaluated]
) -> tuple[Tensor, list[Evaluated]]:
    """Return the velocity (B, C, H, W) at x (B, C, H, W), and at a node f before those there were."""
    t = _time(place, i)
    slope = v(x, x.new_full((len(x),), t))
    if not isinstance(place, int):
        return slope, []
    f = ((1 - t - i.l[place]) / t).to(x.dtype) * x - (1 - t) * slope
    return slope, [Evaluated(place, f), *known]
