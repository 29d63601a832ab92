"""Dynamic programming over the times of exact ways, as GITS does for Euler's rule (2405.11326)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ...errors import FlowlitError
from ...ranges import PositiveFloat
from ..exponential import Variable, exponential_weights, linear_part, singular
from ..schedule import Predicts
from .base import Problem, Record, Strategy
from .candidate import PREDICTIONS, Candidate, Choice
from .paths import Paths


class Rule(NamedTuple):
    """Error of a step, and its rule."""

    error: float
    choice: Choice


@dataclass
class DynamicProgramming(Strategy):
    """The shortest way over a fine grid, the length of a step being its error between exact states.

    Such errors cost no evaluation beyond those of the exact ways. They are those of Euler's rule, and of
    rules of order 2, whose error depends on the step before. A later step's error counts more or less than an
    earlier one's, by a factor: the exact influence on the end is not known, so several are tried, with and
    without correctors. There are few candidates, and the budget is seldom reached.

    Args:
        discounts: factors from a step to the next.
    """

    discounts: list[PositiveFloat] = field(default_factory=lambda: [0.8, 0.9, 1.0, 1.15])

    def smallest(self, problem: Problem) -> int:
        return len(self.discounts) * (1 if problem.space.most == 1 else 4)

    def propose(self, problem: Problem, records: Sequence[Record], generation: int) -> list[Candidate]:
        if generation:
            return []
        paths = problem.paths()
        steps = problem.space.steps
        if paths.intervals < steps:
            raise FlowlitError(
                f"search: {steps} steps do not fit into {paths.intervals} fine ones; expected --fine {steps} "
                "at least, better 10 times as many"
            )
        all_rules = rules(paths, PREDICTIONS if problem.space.most > 1 else ())
        tables = [best_rules(all_rules, kinds) for kinds in ((), ("velocity",), PREDICTIONS)]
        ways = [shortest(paths, table, steps, factor) for table in tables for factor in self.discounts]
        if problem.space.most > 1:
            ways += [_corrected(way) for way in ways[len(self.discounts) :][: len(self.discounts)]]
        return [way for way in dict.fromkeys([*problem.space.start, *ways]) if problem.space.fits(way)]


Table = dict[tuple[int, int, int], Rule]
"""The best rule of each step (before, from, to); ``before`` is -1 where there is no step before."""


def rules(paths: Paths, predictions: Sequence[Predicts]) -> dict[tuple[int, int, int], list[Rule]]:
    """Return the rules of every step between times of the ways: Euler's, and those of order 2 that it has.

    Args:
        paths: exact ways.
        predictions: of rules of order 2; none for Euler's rule alone.
    """
    last = paths.intervals
    table = {}
    for i in range(last):
        for j in range(i + 1, last + 1):
            euler = Rule(_error(paths, -1, i, j, Choice()), Choice())
            for h in range(-1, i):
                second = [Choice(2, kind) for kind in predictions if _has(paths, kind, h, i, j)]
                table[h, i, j] = [euler, *(Rule(_error(paths, h, i, j, c), c) for c in second)]
    return table


def best_rules(table: dict[tuple[int, int, int], list[Rule]], predictions: Sequence[Predicts]) -> Table:
    """Return the rule with the smallest error of each step, among Euler's and those of some predictions."""
    return {
        step: min(r for r in each if r.choice.order == 1 or r.choice.prediction in predictions)
        for step, each in table.items()
    }


def _has(paths: Paths, prediction: Predicts, h: int, i: int, j: int) -> bool:
    """Return whether a step has a rule of order 2 of its own: in λ there is none at the ends of the path."""
    if prediction == "velocity":
        return h >= 0
    return h > 0 and not singular(prediction, "log_snr", paths.times[i], paths.times[j])


def _error(paths: Paths, h: int, i: int, j: int, choice: Choice) -> float:
    """Return the error of a step from the exact state i, with the exact velocities of i and h, to j."""
    s = paths.times[i]
    t = paths.times[j]
    if choice.order == 1:
        return paths.error({j: -1.0, i: 1.0}, {i: t - s})
    kind = choice.prediction
    variable: Variable = "time" if kind == "velocity" else "log_snr"
    states = {j: -1.0, i: linear_part(kind, s, t), h: 0.0}
    velocities = {}
    weights = exponential_weights(kind, variable, [paths.times[h]], s, t)
    for node, weight in zip((i, h), weights, strict=True):
        states[node] += 0.0 if kind == "velocity" else weight  # data are x + (1 - t) v, noise is x - t v
        factor = {"velocity": 1.0, "data": 1 - paths.times[node], "noise": -paths.times[node]}
        velocities[node] = weight * factor[kind]
    return paths.error(states, velocities)


def shortest(paths: Paths, table: Table, steps: int, discount: float) -> Candidate:
    """Return the way of so many steps from noise to data whose errors, discounted, have the smallest sum.

    The error of the first step counts once, that of the second ``discount`` times, and so on.
    """
    last = paths.intervals
    cost = np.full((last + 1, last + 1, last + 1), np.inf)  # [before + 1, from, to]
    for (h, i, j), rule in table.items():
        cost[h + 1, i, j] = rule.error
    left = np.full((last + 1, last + 1), np.inf)
    left[:, last] = 0.0  # [before + 1, from]: nothing is left at the end
    nexts: list[np.ndarray] = []
    for _ in range(steps):
        # of what is left after a step from i to j, i is before it
        ahead = np.vstack([left[1:], np.full(last + 1, np.inf)])
        total = cost + discount * ahead[None, :, :]
        nexts.append(total.argmin(2))
        left = total.min(2)
    way = [0]
    before = -1
    choices = []
    for following in reversed(nexts):
        j = int(following[before + 1, way[-1]])
        choices.append(table[before, way[-1], j].choice)
        before = way[-1]
        way.append(j)
    return Candidate.of([paths.times[i] for i in way], choices)


def _corrected(way: Candidate) -> Candidate:
    """Return the way with a corrector in each step."""
    return Candidate.of(way.times, [choice._replace(corrector=True) for choice in way.choices])
