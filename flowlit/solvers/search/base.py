"""Shared by strategies: what has been tried, and what is tried next."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from ...ranges import Checked
from .candidate import Candidate, Space
from .paths import Paths


class Record(NamedTuple):
    """A candidate that was tried: its generation, and its score, None where it ended in no finite images."""

    generation: int
    candidate: Candidate
    score: float | None

    @property
    def rank(self) -> tuple[float, tuple[float, ...]]:
        """Key to sort by, the best first; equal scores by their times, so that no order is by chance."""
        return (math.inf if self.score is None else self.score, self.candidate.times)


def best(records: Iterable[Record], number: int) -> list[Record]:
    """Return the best of what was tried, the best first."""
    return sorted(records, key=lambda record: record.rank)[:number]


@dataclass
class Problem:
    """Space, size and draws of a search.

    Args:
        space: of candidates.
        size: candidates of a generation.
        seed: of all draws.
        paths: exact ways of the noise of the search, for strategies that use them; costly.
    """

    space: Space
    size: int
    seed: int
    paths: Callable[[], Paths]

    def draws(self, generation: int) -> np.random.Generator:
        """Return the draws of a generation, which depend on no other: a search goes on as if never ended."""
        return np.random.default_rng([self.seed, generation])


class Strategy(Checked, ABC):
    """Way of a search: from what was tried to what is tried next."""

    skips: ClassVar[bool] = False
    """Whether its candidates may leave blocks out."""

    @abstractmethod
    def propose(self, problem: Problem, records: Sequence[Record], generation: int) -> list[Candidate]:
        """Return the candidates of a generation, none of which was tried; none at all ends the search.

        The result is a function of the arguments alone.

        Args:
            problem: what is searched in.
            records: of all generations before, complete.
            generation: from 0.
        """

    def smallest(self, problem: Problem) -> int:
        """Return the candidates of a generation, for which the budget has to be enough."""
        return problem.size


def search(
    strategy: Strategy,
    problem: Problem,
    score: Callable[[Candidate], float | None],
    budget: int,
    records: Sequence[Record] = (),
    note: Callable[[Record], None] = lambda record: None,
) -> list[Record]:
    """Try candidates until the budget is spent, or a strategy has no more; return all records in their order.

    Args:
        strategy: way of the search.
        problem: what is searched in.
        score: of a candidate, smaller is better; None where there is none.
        budget: candidates that are tried, with those of ``records``.
        records: of the same search that was ended before, also amid a generation.
        note: called with each new record.

    Raises:
        ValueError: if the records are not those that this search makes.
    """
    tried = list(records)
    while len(tried) < budget:
        generation = tried[-1].generation if tried else 0
        begun = [record.candidate for record in tried if record.generation == generation]
        before = [record for record in tried if record.generation < generation]
        children = strategy.propose(problem, before, generation)
        if begun == children and children:  # a complete one
            generation += 1
            children = strategy.propose(problem, tried, generation)
            begun = []
        if children[: len(begun)] != begun:
            raise ValueError(f"generation {generation} has other candidates")
        if not children:
            break
        for candidate in children[len(begun) :][: budget - len(tried)]:
            tried.append(Record(generation, candidate, score(candidate)))
            note(tried[-1])
    return tried
