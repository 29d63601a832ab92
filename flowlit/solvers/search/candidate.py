"""Candidates of a search: schedules whose decisions are plain, canonical and hashable."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ...errors import FlowlitError
from ..exponential_multistep import MOST_NODES
from ..grids import Shifted, TimeGrid, time_grid
from ..multistep import LAST
from ..schedule import Predicts, Shape, SolverSchedule
from .blocks import Blocks

DIGITS = 6
"""Decimals of times and scales, so that a result is short and is read as it was tried."""

CLOSEST = 1e-4
"""Distance of neighbouring times at least."""

PREDICTIONS: tuple[Predicts, ...] = ("velocity", "data", "noise")
FORMS: tuple[Shape, ...] = ("exact", "midpoint", "b1")


class Choice(NamedTuple):
    """Decisions of one step, see ``SolverSchedule``."""

    order: int = 1
    prediction: Predicts = "velocity"
    form: Shape = "exact"
    corrector: bool = False
    scale: float = 0.0
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Candidate:
    """A schedule in its canonical form: decisions without an effect have their first value.

    Schedules that compute the same are equal then, and none is tried twice.
    """

    times: tuple[float, ...]
    choices: tuple[Choice, ...]

    @classmethod
    def of(cls, times: Sequence[float], choices: Sequence[Choice]) -> Candidate:
        """Return the canonical candidate of times, from 0 to 1, and a choice for each step."""
        rounded = (0.0, *(round(float(t), DIGITS) for t in times[1:-1]), 1.0)
        canonical: list[Choice] = []
        for step, choice in enumerate(choices):
            corrected = step > 0 and canonical[-1].corrector
            canonical.append(_canonical(choice, step, step == len(choices) - 1, corrected))
        return cls(rounded, tuple(canonical))

    @classmethod
    def of_schedule(cls, schedule: SolverSchedule) -> Candidate:
        """Return the candidate of a schedule; its mean is not among the decisions."""
        choices = [
            Choice(
                min(r.order, i + 1), r.prediction, _plain(r.form), r.corrector is not None, r.scale, r.skipped
            )
            for i, r in enumerate(schedule.rules())
        ]
        return cls.of(schedule.times, choices)

    @property
    def steps(self) -> int:
        """Number of steps, which is that of evaluations."""
        return len(self.choices)

    @property
    def apart(self) -> bool:
        """Return whether no two times are too near to each other."""
        return all(b - a >= CLOSEST for a, b in itertools.pairwise(self.times))

    def lists(self) -> dict[str, Any]:
        """Return the arguments of ``SolverSchedule``: lists, as plain data."""
        names = {"order": "orders", "prediction": "predictions", "form": "forms"}
        names |= {"corrector": "correctors", "scale": "scales"}
        skipped = [list(choice.skipped) for choice in self.choices]
        return {
            "times": list(self.times),
            **{long: [getattr(c, name) for c in self.choices] for name, long in names.items()},
            **({"skipped": skipped} if any(skipped) else {}),
        }

    def schedule(self) -> SolverSchedule:
        """Return the solver.

        Raises:
            FlowlitError: for times that do not rise, and orders that are too high for their step.
        """
        return SolverSchedule(**self.lists())


def _plain(form: Any) -> Shape:
    return form if form in FORMS else "exact"


def _canonical(choice: Choice, step: int, last: bool, corrected: bool) -> Choice:
    """Return the same rule of a step with the first value for each decision that has no effect on it.

    Of order 1 the predictions differ only where the state was corrected: data and noise then stay those of
    the place at which the velocity was evaluated.
    """
    order = min(choice.order, step + 1)
    skipped = tuple(sorted(set(choice.skipped)))
    prediction = choice.prediction
    corrector = choice.corrector and not last
    if prediction != "velocity" and (step == 0 or last):  # Euler's rule alone, see ``singular``
        order = 1
        corrector = False
    elif prediction != "velocity":  # the evaluation at noise takes no part
        order = min(order, step)
    if order == 1 and not corrector:
        return Choice(prediction=prediction if corrected else "velocity", skipped=skipped)
    formed = prediction != "velocity" and (order == 2 or (order == 1 and corrector))
    scale = round(choice.scale, DIGITS) + 0.0  # not -0.0, which would be another text
    return Choice(order, prediction, choice.form if formed else "exact", corrector, scale, skipped)


def alike(times: Sequence[float], choice: Choice) -> Candidate:
    """Return a candidate whose steps have one rule, of a lower order where there are too few evaluations."""
    return Candidate.of(times, [choice] * (len(times) - 1))


def adams_candidate(times: Sequence[float], order: int) -> Candidate:
    """Return what ``Adams`` computes on a grid of N times as N steps of a schedule.

    Adams' last evaluation, two thirds into the last interval, is a time of the schedule. There the state is
    corrected by the polynomial that the last step then follows to the end, so that both parts are its
    integral.
    """
    inner = times[-2] + LAST * (1 - times[-2])
    steps = [Choice(order - 1, corrector=True)] * (len(times) - 1)
    return Candidate.of([*times[:-1], inner, 1.0], [*steps, Choice(order)])


def known(steps: int, most: int) -> dict[str, Candidate]:
    """Return solvers of other files as candidates of a number of steps, by name, up to an order."""
    uniform = time_grid(steps)
    plain = {
        "Euler": alike(uniform, Choice()),
        "DEIS, order 1": alike(uniform, Choice(2)),
        "UniPC on velocity, order 2": alike(uniform, Choice(2, corrector=True)),
        "UniPC on data, order 2": alike(uniform, Choice(2, "data", "midpoint", True)),
        "DPMSolver, order 2": alike(uniform, Choice(2, "data", "midpoint")),
    }
    plain |= {f"Adams, order {k}": adams_candidate(time_grid(steps - 1), k) for k in (3, 2) if steps > 1}
    shifted: TimeGrid = Shifted(0.6)
    plain |= {"UniPC on velocity, order 2, shifted": alike(shifted(steps), Choice(2, corrector=True))}
    if steps > 1:
        plain |= {"Adams, order 3, shifted": adams_candidate(shifted(steps - 1), 3)}
    return {name: each for name, each in plain.items() if max(c.order for c in each.choices) <= most}


@dataclass(frozen=True)
class Space:
    """Schedules among which a search looks.

    Args:
        steps: of each, at least 2.
        most: order at most.
        start: candidates that are tried first.
        blocks: those that may be left out, so that more evaluations cost as much; None has all blocks.
    """

    steps: int
    most: int = 3
    start: tuple[Candidate, ...] = ()
    blocks: Blocks | None = None

    def __post_init__(self) -> None:
        """Refuse a space in which nothing is to be found."""
        if self.steps < 2:
            raise FlowlitError("search: one evaluation is Euler's step, and there is nothing to search for")
        if not 1 <= self.most <= min(MOST_NODES, self.steps):
            raise FlowlitError(
                f"search: the order is {self.most} at most; expected 1 to {min(MOST_NODES, self.steps)}, "
                f"since {self.steps} evaluations allow no more"
            )
        for each in self.start:
            high = max(choice.order for choice in each.choices)
            if each.steps != self.steps or high > self.most:
                raise FlowlitError(
                    f"search: a schedule to start from has {each.steps} steps of order {high} at most; "
                    f"expected {self.steps} steps, of order {self.most} at most"
                )
            if not self._affords(each):
                raise FlowlitError(
                    "search: a schedule to start from leaves out blocks that this search does not, or costs "
                    "more; expected the network, --nfe and --calls of its own search"
                )

    @property
    def whole(self) -> int:
        """Evaluations of the whole network that cost as much as a candidate, at most."""
        return self.steps if self.blocks is None else int(self.blocks.limit)

    def _affords(self, candidate: Candidate) -> bool:
        if self.blocks is None:
            return not any(choice.skipped for choice in candidate.choices)
        return self.blocks.fits(candidate)

    def first(self) -> Iterator[Candidate]:
        """Yield what is tried first: the schedules to start from, and known solvers; each once."""
        others = known(self.steps, self.most).values()
        fitted = others if self.blocks is None else map(self.blocks.fitted, others)
        yield from dict.fromkeys([*self.start, *fitted])

    def fits(self, candidate: Candidate) -> bool:
        """Return whether a candidate is in the space."""
        orders = [choice.order for choice in candidate.choices]
        fits = candidate.steps == self.steps and candidate.apart and max(orders) <= self.most
        return fits and self._affords(candidate)


def moved(candidate: Candidate, times: Sequence[float]) -> Candidate:
    """Return the candidate at other times."""
    return Candidate.of(times, candidate.choices)


def chosen(candidate: Candidate, step: int, **decisions: Any) -> Candidate:
    """Return the candidate with other decisions in one step."""
    choices = list(candidate.choices)
    choices[step] = choices[step]._replace(**decisions)
    return replace(candidate, choices=Candidate.of(candidate.times, choices).choices)


def intervals(candidate: Candidate) -> list[float]:
    """Return the logarithms of the lengths of the steps, relative to equal ones.

    >>> intervals(alike([0, 0.5, 1], Choice()))
    [0.0, 0.0]
    """
    lengths = (b - a for a, b in itertools.pairwise(candidate.times))
    return [math.log(max(each, 1e-12) * candidate.steps) for each in lengths]
