"""Evolution of schedules: USF's and AutoDiffusion's spaces (2312.07243, 2309.10438), in one population."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import exp
from typing import ClassVar

import numpy as np

from ...ranges import PositiveInt, Probability
from .base import Problem, Record, Strategy, best
from .candidate import FORMS, PREDICTIONS, Candidate, Choice, Space, chosen, intervals, moved

_ORDERS = (0.2, 0.4, 0.3, 0.1)
"""How often a changed order is 1, 2, 3 and 4."""

_TRIES = 20
"""Children of the same draws, at most, until one is new."""


@dataclass
class Evolution(Strategy):
    """Children of the best: times, orders, predictions, forms, correctors and scales are mixed and changed.

    The first generation has the schedules to start from, known solvers, and changes of these. All that was
    tried stays in the population. Where evaluations may leave blocks out, these change, too.

    Args:
        parents: the best so many have children.
        crossover: how often a child has two parents.
        change: how often a decision is changed, for each.
    """

    skips: ClassVar[bool] = True

    parents: PositiveInt = 15
    crossover: Probability = 0.4
    change: Probability = 0.25

    def propose(self, problem: Problem, records: Sequence[Record], generation: int) -> list[Candidate]:
        draws = problem.draws(generation)
        tried = {record.candidate for record in records}
        fresh = [each for each in problem.space.first() if each not in tried][: problem.size]
        pool = [record.candidate for record in best(records, self.parents)] or fresh
        return self.children(problem.space, pool, tried, fresh, problem.size, draws)

    def children(
        self,
        space: Space,
        pool: Sequence[Candidate],
        tried: Collection[Candidate],
        fresh: Sequence[Candidate],
        size: int,
        draws: np.random.Generator,
    ) -> list[Candidate]:
        """Return ``size`` new candidates, of which some are there already; fewer where none is new any more.

        Args:
            space: of candidates.
            pool: parents.
            tried: candidates that are not new.
            fresh: the first of the result.
            size: of the result.
            draws: random numbers.
        """
        children = dict.fromkeys(fresh)
        while len(children) < size:
            for _ in range(_TRIES):
                child = self._child(space, pool, draws)
                if space.fits(child) and child not in tried and child not in children:
                    children[child] = None
                    break
            else:
                break
        return list(children)

    def _child(self, space: Space, pool: Sequence[Candidate], draws: np.random.Generator) -> Candidate:
        child = self._whole_child(space, pool, draws)
        if space.blocks is None:
            return child
        if draws.random() < 0.6:
            child = space.blocks.changed(child, draws)
        return space.blocks.fitted(child, draws)

    def _whole_child(self, space: Space, pool: Sequence[Candidate], draws: np.random.Generator) -> Candidate:
        child = pool[int(draws.integers(len(pool)))]
        mixed = len(pool) > 1 and draws.random() < self.crossover
        if mixed:
            child = crossed(child, pool[int(draws.integers(len(pool)))], draws)
        if mixed and draws.random() < 0.3:
            return child
        return self._changed(space, child, draws)

    def _changed(self, space: Space, child: Candidate, draws: np.random.Generator) -> Candidate:
        """Return a child whose times are moved, or whose decisions are changed, or both."""
        kind = draws.random()
        if kind < 0.75 or space.most == 1:
            child = with_moved_times(child, draws)
        if kind > 0.5 and space.most > 1:
            step = int(draws.integers(child.steps))
            for i in range(child.steps):
                if i == step or draws.random() < self.change / 2:
                    child = with_changed_choice(space, child, i, self.change, draws)
        return child


def crossed(one: Candidate, other: Candidate, draws: np.random.Generator) -> Candidate:
    """Return a child of two: times between theirs, or those of one; decisions of both, or those of one."""
    share = draws.uniform(-0.25, 1.25) if draws.random() < 0.7 else 0.0
    logs = [a + share * (b - a) for a, b in zip(intervals(one), intervals(other), strict=True)]
    mask = draws.random(one.steps) < (0.5 if draws.random() < 0.5 else 0.0)
    choices = [b if m else a for a, b, m in zip(one.choices, other.choices, mask, strict=True)]
    return Candidate.of(times_of(logs), choices)


def with_moved_times(child: Candidate, draws: np.random.Generator) -> Candidate:
    """Return a child with other lengths of its steps, by much or little, all or some; or one time moved."""
    if draws.random() < 0.25:
        times = list(child.times)
        i = int(draws.integers(1, child.steps))
        times[i] = draws.uniform(times[i - 1], times[i + 1])
        return moved(child, times)
    width = float(np.exp(draws.uniform(np.log(0.01), np.log(0.4))))
    mask = draws.random(child.steps) < draws.choice([0.3, 1.0])
    changes = width * draws.standard_normal(child.steps) * mask
    return moved(child, times_of([a + b for a, b in zip(intervals(child), changes, strict=True)]))


def with_changed_choice(
    space: Space, child: Candidate, step: int, change: float, draws: np.random.Generator
) -> Candidate:
    """Return a child with one decision of a step changed at least, each of the others now and then."""
    weights = np.array(_ORDERS[: min(space.most, step + 1)])
    before = child.choices[step]
    values = Choice(
        int(draws.choice(len(weights), p=weights / weights.sum())) + 1,
        PREDICTIONS[draws.choice(3, p=(0.6, 0.2, 0.2))],
        FORMS[draws.integers(3)],
        not before.corrector,
        before.scale + float(draws.normal(0, 0.05)),
    )
    first = int(draws.integers(5))
    mask = [i == first or draws.random() < change for i in range(5)]
    decisions = {name: getattr(values, name) for name, m in zip(Choice._fields, mask, strict=False) if m}
    return chosen(child, step, **decisions)


def times_of(logs: Sequence[float]) -> list[float]:
    """Return times from 0 to 1 whose steps have lengths with these logarithms, but for a factor.

    >>> times_of([0.0, 0.0])
    [0.0, 0.5, 1.0]
    """
    lengths = [exp(each - max(logs)) for each in logs]
    return [0.0, *(each / sum(lengths) for each in accumulate(lengths[:-1])), 1.0]
