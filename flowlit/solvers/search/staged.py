"""A search in stages by a predictor of scores, S³'s way (2312.07243)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ...ranges import NonNegativeFloat, PositiveInt, Share
from .base import Problem, Record, Strategy, best
from .candidate import PREDICTIONS, Candidate, intervals
from .evolution import Evolution

WORST = math.log(3)
"""Scores beyond three times the best are all the same to the predictor: bad."""


MOST = 1000
"""Records that a predictor is fitted to, the best, at most: its cost grows with the cube of their number."""


@dataclass
class Staged(Strategy):
    """Evolution on a predictor of scores, of which each generation tries the most promising; then it is
    fitted anew.

    The predictor is Gaussian process regression of the logarithm of the score on times and decisions, with a
    width and a noise chosen by its errors on each record in turn, left out. (The paper's is a network that is
    trained to rank.) The first generation is that of ``Evolution``.

    Args:
        rounds: of evolution on the predictor, for each generation.
        children: of each round.
        explore: share of a generation that evolution proposes without it.
        distance: of those that are tried together, as a share of their usual one; alike ones say little more
            than one of them.
        evolution: how children are made.
    """

    rounds: PositiveInt = 8
    children: PositiveInt = 100
    explore: Share = 0.25
    distance: NonNegativeFloat = 0.5
    evolution: Evolution = field(default_factory=Evolution)

    def propose(self, problem: Problem, records: Sequence[Record], generation: int) -> list[Candidate]:
        scored = [record for record in records if record.score is not None]
        if len(scored) < min(problem.size, 3):
            return self.evolution.propose(problem, records, generation)
        draws = problem.draws(generation)
        tried = {record.candidate for record in records}
        predictor = Predictor(best(scored, MOST))
        pool = [record.candidate for record in best(scored, self.evolution.parents)]
        ideas: dict[Candidate, float] = {}
        for _ in range(self.rounds):
            children = self.evolution.children(problem.space, pool, tried, (), self.children, draws)
            values = predictor(children) if children else []
            ideas.update(zip(children, values, strict=True))
            ranked = sorted(ideas, key=lambda each: (ideas[each], each.times))
            pool = [*pool[:3], *ranked[: self.evolution.parents]]
        promising = apart(ranked, problem.size - int(self.explore * problem.size), self.distance)
        parents = [record.candidate for record in best(scored, self.evolution.parents)]
        return self.evolution.children(problem.space, parents, tried, promising, problem.size, draws)


def apart(ranked: Sequence[Candidate], number: int, share: float) -> list[Candidate]:
    """Return the first candidates with a distance from each other; then others, in their order.

    Args:
        ranked: the best first.
        number: of the result, at most.
        share: distance at least, relative to the median one.
    """
    if not ranked:
        return []
    points = features(ranked)
    distances = _distances(points, points)
    least = share * float(np.median(distances))
    picked: list[int] = []
    for i in range(len(ranked)):
        if len(picked) < number and all(distances[i, j] >= least for j in picked):
            picked.append(i)
    others = [i for i in range(len(ranked)) if i not in picked][: number - len(picked)]
    return [ranked[i] for i in [*picked, *others]]


class Predictor:
    """Expected logarithm of a score, relative to the best."""

    def __init__(self, records: Sequence[Record]):
        scores = np.array([record.score for record in records])
        floor = max(scores.min(), np.finfo(float).tiny)
        values = np.minimum(np.log(np.maximum(scores, floor) / floor), WORST)
        self.points = features([record.candidate for record in records])
        self.middle = values.mean()
        distances = _distances(self.points, self.points)
        middle = float(np.median(distances[distances > 0])) if (distances > 0).any() else 1.0
        fits = [
            self._fit(distances, values - self.middle, width * middle, noise)
            for width in (0.25, 0.5, 1.0, 2.0)
            for noise in (1e-3, 1e-2, 1e-1)
        ]
        _, self.width, self.weights = min(fits, key=lambda fit: fit[0])

    @staticmethod
    def _fit(
        distances: np.ndarray, values: np.ndarray, width: float, noise: float
    ) -> tuple[float, float, np.ndarray]:
        """Return the mean square of errors on records that are left out, the width and the weights."""
        inverse = np.linalg.inv(_kernel(distances, width) + noise * np.eye(len(values)))
        weights = inverse @ values
        return float(np.square(weights / inverse.diagonal()).mean()), width, weights

    def __call__(self, candidates: Sequence[Candidate]) -> list[float]:
        """Return a number for each candidate; smaller is better."""
        near = _kernel(_distances(features(candidates), self.points), self.width)
        return [float(each) for each in near @ self.weights + self.middle]


def features(candidates: Sequence[Candidate]) -> np.ndarray:
    """Return candidates as rows of numbers: lengths of steps, times, and decisions."""
    return np.array([_row(each) for each in candidates], dtype=np.float64)


def _row(candidate: Candidate) -> list[float]:
    row = [*intervals(candidate), *(candidate.steps * t / 2 for t in candidate.times[1:-1])]
    for choice in candidate.choices:
        kinds = [0.5 * (choice.prediction == kind) for kind in PREDICTIONS]
        forms = [0.3 * (choice.form == form) for form in ("midpoint", "b1")]
        row += [0.5 * choice.order, *kinds, *forms, 0.5 * choice.corrector, 3 * choice.scale]
    return row


def _distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    squares = np.square(one).sum(1)[:, None] + np.square(other).sum(1)[None] - 2 * one @ other.T
    return np.sqrt(np.maximum(squares, 0.0))


def _kernel(distances: np.ndarray, width: float) -> np.ndarray:
    return np.exp(-np.square(distances / width) / 2)
