"""Results of a search: the solver as YAML, a layer, a table and a picture."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..._support.files import write_atomically, write_figure
from ..._support.formatting import aligned, number_or_dash
from ..._support.progress import Bar
from ...solvers.exponential_multistep import MOST_NODES
from ...solvers.search.base import Record
from ...solvers.search.candidate import Candidate, Space, known
from .objective import Objective
from .plot import plot
from .state import State


class Score(NamedTuple):
    """Scores of a schedule on the noise of the search, and on other noise."""

    name: str
    candidate: Candidate
    searched: float | None
    held_out: float | None


@dataclass
class Result:
    """Facts about a finished search."""

    model: str
    nfe: int
    objective: str
    space: Space
    best: list[Record]
    state: State


def write_results(into: Path, result: Result, objective: Objective, apart: Objective) -> Iterator[str]:
    """Score the best and known solvers on other noise, write the files, and yield lines on them."""
    names = {f"searched, {i + 1}": record.candidate for i, record in enumerate(result.best)}
    names |= {f"start {i + 1}": each for i, each in enumerate(result.space.start)}
    names |= known(result.space.whole, MOST_NODES)
    tried = {record.candidate: record.score for record in result.state.records}
    scores = []
    for name, candidate in Bar(names.items(), desc="Held out", unit=" schedules", leave=False):
        searched = tried[candidate] if candidate in tried else objective(candidate)
        both = (None if s is None else objective.sign * s for s in (searched, apart(candidate)))
        scores.append(Score(name, candidate, *both))
    write_atomically(into / "solver.yaml", "\n".join([*_header(result, scores), *_lines(result)]).encode())
    write_atomically(into / "layer.yaml", _layer(result).encode())
    write_figure(into / "search.png", plot(result.state.records, scores, objective), dpi=120)
    head = [result.objective, "noise of the search", "held out"]
    rows = [[s.name, number_or_dash(s.searched, ".4g"), number_or_dash(s.held_out, ".4g")] for s in scores]
    yield from aligned([head, *rows])
    yield _verdict(scores, objective.sign)
    if result.space.blocks is not None:
        yield f"{_cost(result)}; those of known solvers have all blocks"
    yield f"solver: {into / 'solver.yaml'}, layer: {into / 'layer.yaml'}, picture: {into / 'search.png'}"


def _verdict(scores: list[Score], sign: int) -> str:
    """Return a line that compares the best with the best known solver, both on held-out noise."""
    others = [score for score in scores if not score.name.startswith("searched")]
    other = min(others, key=lambda each: float("inf") if each.held_out is None else sign * each.held_out)
    first = scores[0]
    if first.held_out is None or other.held_out is None:
        return "held out: no ratio, since one of them has no score"
    if sign < 0 or first.held_out <= 0 or other.held_out <= 0:
        return f"held out: {first.held_out:.4g}, and {other.held_out:.4g} of {other.name}"
    ratio = other.held_out / first.held_out
    how = f"{ratio:.2f} times as near as" if ratio >= 1 else f"{1 / ratio:.2f} times as far as"
    return f"held out: {first.held_out:.4g}, {how} {other.name} ({other.held_out:.4g})"


def _cost(result: Result) -> str:
    """Return in words what the calls of the best cost."""
    best = result.best[0].candidate
    blocks = result.space.blocks
    cost = best.steps if blocks is None else blocks.cost(best)
    left_out = sum(len(choice.skipped) for choice in best.choices)
    return (
        f"{best.steps} calls leave {left_out} blocks out, and cost {cost:.2f} calls of the whole network "
        "(multiply-accumulates)"
    )


def _header(result: Result, scores: list[Score]) -> list[str]:
    searched, held_out = (number_or_dash(each, ".4g") for each in scores[0][2:])
    adams = next((score for score in scores if score.name.startswith("Adams")), None)
    beside = "" if adams is None else f" ({adams.name}: {number_or_dash(adams.held_out, '.4g')})"
    settings = result.state.settings
    network = f"{settings['network'][:16]} ({Path(result.model).name}), guidance {settings['guidance']}"
    strategy = settings["strategy"]["class"].rpartition(".")[2]
    blocks = result.space.blocks
    steps = f"{result.space.steps} calls, some without blocks,"
    extent = f"{result.nfe} evaluations" if blocks is None else steps
    return [
        f"# A schedule of {extent} that flowlit search found for one network.",
        f"#   network  {network}",
        f"#   score    {result.objective}: {searched} on the search's noise, {held_out}{beside} held out",
        f"#   search   {strategy}, {len(result.state.records)} schedules, seed {settings['seed']}",
        *([] if blocks is None else [f"#   cost     {_cost(result)}"]),
    ]


def _lines(result: Result) -> list[str]:
    """Return the solver as lines of YAML."""
    lists = result.best[0].candidate.lists()
    inside = [f"  {name}: {json.dumps(values).replace(chr(34), '')}" for name, values in lists.items()]
    return ["class_path: flowlit.solvers.SolverSchedule", "init_args:", *inside, ""]


def _layer(result: Result) -> str:
    """Return a layer of a configuration, whose only solver is the one that was found."""
    name = f"searched{result.nfe}"
    head = [
        f"# A layer over a couple or an evaluation, with the solver of solver.yaml as {name}.",
        "model:",
        "  init_args:",
        "    solvers:",
        f"      {name}:",
    ]
    return "\n".join([*head, *(f"        {line}".rstrip() for line in _lines(result))])
