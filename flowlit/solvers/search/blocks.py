"""Blocks that evaluations leave out, so that more of them cost as much. Li et al. 2023 (2309.10438)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .candidate import Candidate

_SLACK = 1e-9

_WIDTH = 1.0
"""Of the random factors, as a logarithm, by which blocks are chosen otherwise than by what is measured."""


@dataclass(frozen=True)
class Blocks:
    """Blocks of a network that evaluations may leave out, and what a schedule may cost.

    Args:
        saved: share of an evaluation that each block takes, by name.
        harm: square of the velocity's error without a block, by name, at equal times from 0 on.
        limit: what all evaluations may cost together, in evaluations of the whole network.
    """

    saved: Mapping[str, float]
    harm: Mapping[str, Sequence[float]]
    limit: float

    @property
    def least(self) -> float:
        """Cost of an evaluation without all of them."""
        return 1 - sum(self.saved.values())

    def cost(self, candidate: Candidate) -> float:
        """Return what a schedule costs, in evaluations of the whole network."""
        return sum(1 - sum(self.saved[name] for name in c.skipped) for c in candidate.choices)

    def fits(self, candidate: Candidate) -> bool:
        """Return whether a schedule leaves out nothing but these, and enough of them."""
        known = all(name in self.saved for choice in candidate.choices for name in choice.skipped)
        return known and self.cost(candidate) <= self.limit + _SLACK

    def fitted(self, candidate: Candidate, draws: np.random.Generator | None = None) -> Candidate:
        """Return a schedule without further blocks until it fits, and with those that then fit again.

        They are chosen by their harm for what they save, at their times and for the lengths of their steps;
        with draws only more or less so.
        """
        skipped = [set(choice.skipped) for choice in candidate.choices]
        cost = self.cost(candidate)
        places = self._ranked(candidate, draws)
        for step, name in places:
            if cost <= self.limit + _SLACK:
                break
            if name not in skipped[step]:
                skipped[step].add(name)
                cost -= self.saved[name]
        for step, name in reversed(places):
            if name in skipped[step] and cost + self.saved[name] <= self.limit + _SLACK:
                skipped[step].remove(name)
                cost += self.saved[name]
        return leaving_out(candidate, skipped)

    def changed(self, candidate: Candidate, draws: np.random.Generator) -> Candidate:
        """Return a schedule whose evaluations leave out others, more or fewer, or those of a neighbour."""
        skipped = [set(choice.skipped) for choice in candidate.choices]
        step = int(draws.integers(candidate.steps))
        kind = draws.random()
        if kind < 0.2:
            skipped[step] = set()
        elif kind < 0.4 and candidate.steps > 1:
            skipped[step] = set(skipped[step - 1 if step else 1])
        else:
            names = sorted(self.saved)
            flipped = draws.choice(len(names), size=min(len(names), int(draws.integers(1, 4))), replace=False)
            skipped[step] ^= {names[i] for i in flipped}
        return leaving_out(candidate, skipped)

    def _ranked(self, candidate: Candidate, draws: np.random.Generator | None) -> list[tuple[int, str]]:
        """Return all places of blocks, those first that harm least for what they save."""
        lengths = [later - earlier for earlier, later in itertools.pairwise(candidate.times)]
        harms = {}
        for step, name in self._places(candidate.steps):
            values = self.harm[name]
            at = values[min(int(candidate.times[step] * len(values)), len(values) - 1)]
            noise = 0.0 if draws is None else float(draws.normal(0, _WIDTH))
            harms[step, name] = at * lengths[step] ** 2 / self.saved[name] * float(np.exp(noise))
        return sorted(harms, key=lambda place: (harms[place], place))

    def _places(self, steps: int) -> Iterator[tuple[int, str]]:
        yield from itertools.product(range(steps), sorted(self.saved))


def leaving_out(candidate: Candidate, skipped: Sequence[set[str]]) -> Candidate:
    """Return the candidate with other blocks left out, a set for each step."""
    choices = [c._replace(skipped=tuple(s)) for c, s in zip(candidate.choices, skipped, strict=True)]
    return type(candidate).of(candidate.times, choices)
