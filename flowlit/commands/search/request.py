"""The request of ``flowlit search``, and its run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..._support.locks import locked_folder
from ..._support.progress import Bar
from ...errors import FlowlitError
from ...generators import Generator, load
from ...generators.inputs import check_reads_noise
from ...networks import ClassifierFreeGuidance
from ...networks.checkpoints.fingerprint import identity
from ...networks.statistics import owner
from ...solvers import SolverSchedule
from ...solvers.search import Evolution, Staged, Strategy
from ...solvers.search.base import Problem, best, search
from ...solvers.search.candidate import Candidate, Space
from ...types import evaluations_of
from ..sample.solver import solver_of
from .blocks import blocks_of
from .objective import EndpointError, Measured, Objective
from .results import Result, write_results
from .state import STATE, State

MOST_ORDER = 3
"""Of a step unless it is given: as far as ``Adams`` and ``UniPC`` go."""


@dataclass
class Request:
    """Options of ``flowlit search`` that decide what is found; see there."""

    nfe: int
    strategy: Strategy | None
    budget: int
    population: int
    order: int | None
    start: list[str]
    num: int
    fine: int
    guidance: float | None
    seed: int
    calls: int | None = None

    @property
    def chosen(self) -> Strategy:
        """Strategy of the search."""
        return self.strategy or (Staged() if self.calls is None else Evolution())

    def check(self, into: Path) -> None:
        """Refuse options that contradict each other, and a folder with files of others."""
        if self.calls is not None and not self.chosen.skips:
            raise FlowlitError(
                f"--calls with --strategy {type(self.chosen).__name__}: only Evolution leaves blocks out; "
                "expected --strategy Evolution"
            )
        if into.exists() and not into.is_dir():
            raise FlowlitError(f"--into {into} is a file; expected a folder")
        others = [path.name for path in into.glob("[!.]*")] if into.is_dir() else []
        if others and STATE not in others:
            raise FlowlitError(
                f"--into {into} holds {sorted(others)[0]}, and no {STATE} of a search to go on with; choose "
                "another"
            )

    def problem(self, generator: Generator) -> Problem:
        """Return what is searched in, before any work.

        Raises:
            FlowlitError: if nothing is to be found, or the budget is less than a generation.
        """
        limit = self._whole(generator)
        steps = limit if self.calls is None else self.calls
        if self.fine < 2 * steps:
            raise FlowlitError(
                f"--fine {self.fine} is no exact way for {steps} steps; expected {2 * steps} or more"
            )
        order = min(MOST_ORDER, steps) if self.order is None else self.order
        space = Space(steps, order)
        problem = Problem(space, self.population, self.seed, _no_paths)
        smallest = self.chosen.smallest(problem)
        if self.budget < smallest:
            raise FlowlitError(
                f"--budget {self.budget} is less than one generation of {smallest}; expected {smallest} at "
                "least, better 10 times as many, or a smaller --population"
            )
        start = tuple(started(text) for text in self.start)
        blocks = None if self.calls is None else blocks_of(generator, self.calls, limit, self.seed)
        return replace(problem, space=replace(space, start=start, blocks=blocks))

    def _whole(self, generator: Generator) -> int:
        """Return the calls of the whole network that cost as much as is given."""
        each = evaluations_of(generator.network)
        calls, remainder = divmod(self.nfe, each)
        if remainder:
            raise FlowlitError(
                f"--nfe {self.nfe}: guidance takes {each} evaluations a step; expected a multiple"
            )
        if self.calls is not None and self.calls <= calls:
            raise FlowlitError(
                f"--calls {self.calls}: --nfe {self.nfe} is enough for {calls} calls of the whole network; "
                f"expected {calls + 1} or more, of which some leave blocks out"
            )
        return calls

    def settings(self, generator: Generator, problem: Problem, objective: Objective) -> dict[str, Any]:
        """Return all that decides what a search finds, as plain data, but for the budget."""
        return {
            "network": owner(generator.network)[0],
            "guidance": self.guidance,
            "nfe": self.nfe,
            "strategy": identity(self.chosen),
            "population": self.population,
            "order": problem.space.most,
            "start": [each.lists() for each in problem.space.start],
            "num": self.num,
            "seed": self.seed,
            "objective": objective.identity(),
            **({} if self.calls is None else {"calls": self.calls}),
        }

    def run(
        self,
        model: str,
        into: Path,
        measured: Measured,
        weights: str,
        device: str | None,
        batch: int,
    ) -> Iterator[str]:
        """Search, while no other process does so in the folder; yield lines on what was found.

        Raises:
            FlowlitError: as ``flowlit search``.
        """
        measured.check()
        self.check(into)
        exact = partial(EndpointError, fine=self.fine)
        with locked_folder(into, "search", "choose another --into"):
            generator = load(model, weights, device=device)
            check_reads_noise(generator.network, "search")
            if self.guidance is not None:
                guided = ClassifierFreeGuidance(generator.network, self.guidance)
                generator = replace(generator, network=guided)
            problem = self.problem(generator)
            rows = self.num, self.seed, batch
            objective = measured.objective(generator, *rows) or exact(generator, *rows)
            state = State.opened(into / STATE, self.settings(generator, problem, objective), self.budget)
            followed = objective if isinstance(objective, EndpointError) else exact(generator, *rows)
            problem = replace(problem, paths=followed.paths)
            self._try(problem, objective, state)
            state.check_result()
            other = self.seed + 1 if self.seed < 2**64 - 1 else 0
            rows = self.num, other, batch
            apart = measured.objective(generator, *rows) or exact(generator, *rows)
            result = Result(model, self.nfe, objective.name, problem.space, best(state.records, 4), state)
            yield from write_results(into, result, objective, apart)

    def _try(self, problem: Problem, objective: Objective, state: State) -> None:
        done = len(state.records)
        with Bar(total=self.budget, initial=done, desc="Search", unit=" schedules", leave=False) as bar:

            def note(record: Any) -> None:
                state.add(record)
                bar.set_postfix_str(f"best {objective.sign * state.best_score():.4g}", refresh=False)
                bar.update()

            try:
                search(self.chosen, problem, objective, self.budget, state.records, note)
            except ValueError as error:
                raise FlowlitError(
                    f"{state.path} was made by another version of flowlit ({error}); choose another --into"
                ) from error
            finally:
                if state.records:
                    state.write()


def _no_paths() -> Any:
    raise FlowlitError("search: this strategy needs exact ways before there are any")


def started(text: str) -> Candidate:
    """Return the candidate that a text or a YAML names.

    Raises:
        FlowlitError: if it is no ``SolverSchedule``.
    """
    try:
        solver = solver_of(text, None)
    except FlowlitError as error:
        raise FlowlitError(str(error).replace("--solver", "--start", 1)) from error
    if not isinstance(solver, SolverSchedule):
        raise FlowlitError(
            f"--start {text}: expected a SolverSchedule, as the solver.yaml of another search; known solvers "
            "are tried anyway"
        )
    return Candidate.of_schedule(solver)
