"""Distances against what they cost: tables and plots of all reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..._support.formatting import number_or_dash
from ...errors import FlowlitError
from ...metrics.report import Estimate, Kind, records
from .blocks import Block, Figure, Figures, Key, Lines, Table
from .find import Group
from .plots import DASHES, Line, draw_costs, embedded, look
from .stage import Stage


@dataclass
class Result:
    """A distance of a solver in a report."""

    run: str
    place: int
    """Of its line in plots."""
    stage: Stage
    solver: str
    kind: Kind
    distance: Estimate
    nfe: float | None
    params: int | None
    speed: float | None


def label(group: Group, stage: Stage, groups: Sequence[Group]) -> str:
    """Return the name of a run on a page."""
    return stage.name if len(groups) == 1 else f"{group.name}/{stage.name}"


def results_of(groups: Sequence[Group]) -> list[Result]:
    """Return all distances of all reports."""
    results = []
    for i, group in enumerate(groups):
        for j, stage in enumerate(group.stages):
            for file, report in stage.reports.items():
                name = label(group, stage, groups) + (f" ({file})" if len(stage.reports) > 1 else "")
                place = j if len(groups) == 1 else i
                results += _results(name, place, stage, file, report)
    return results


def _results(name: str, place: int, stage: Stage, file: str, report: dict[str, Any]) -> list[Result]:
    results = []
    for record in records(file, report):
        speed = report["metrics"].get(f"images_per_s/{record.solver}")
        for kind, distance in record.distances.items():
            facts = (record.solver, kind, distance, record.nfe, report.get("params"), speed)
            results.append(Result(name, place, stage, *facts))
    return results


def kinds_of(results: Sequence[Result]) -> dict[Kind, list[Result]]:
    """Return results by what may be compared: of so many images, in the same features, against the same."""
    kinds: dict[Kind, list[Result]] = {}
    for result in results:
        kinds.setdefault(result.kind, []).append(result)
    return kinds


def tables(results: Sequence[Result]) -> list[Block]:
    """Return a table for each kind of distance, the best first."""
    kinds = kinds_of(results)
    blocks: list[Block] = []
    for kind, own in kinds.items():
        rows = [
            [
                result.run,
                result.solver,
                _distance(result.distance),
                number_or_dash(result.nfe, ".4g"),
                number_or_dash(result.params, ",d"),
                number_or_dash(result.speed, ",.0f"),
            ]
            for result in sorted(own, key=lambda result: result.distance.value)
        ]
        header = ["run", "solver", kind.name, "NFE", "parameters", "images/s"]
        blocks.append(Table(header, rows, kind.label(list(kinds)), left=2))
    return blocks


def _distance(distance: Estimate) -> str:
    spread = "" if distance.spread is None else f" ± {distance.spread:.2g}"
    return f"{distance.value:.4g}{spread}"


def plots(results: Sequence[Result]) -> list[Block]:
    """Return plots of each kind of distance over NFE, size and speed; an axis without a range has none."""
    costs: list[tuple[str, Callable[[Result], float | None]]] = [
        ("NFE", lambda result: result.nfe),
        ("thousand parameters", lambda result: result.params and result.params / 1e3),
        ("images/s", lambda result: result.speed),
    ]
    figures = []
    for kind, own in kinds_of(results).items():
        for name, cost in costs:
            lines = _lines(own, cost, joined=name == "NFE")
            if len({x for line in lines for x, _ in line.points}) > 1:
                title = f"{kind.name} over {name}"
                words = f"{title}: lower is better; its numbers are in the table of {kind.name}"
                figures.append(Figure(draw_costs(title, name, lines), words))
    entries = {result.place: result.run for result in results}
    return [Figures(figures), key(entries)] if figures else []


def _lines(results: Sequence[Result], cost: Callable[[Result], float | None], joined: bool) -> list[Line]:
    lines: dict[tuple[int, str], list[tuple[float, float, str]]] = {}
    for result in results:
        x = cost(result)
        if x is not None and 0 < x < float("inf") and 0 < result.distance.value < float("inf"):
            name = result.run if joined else f"{result.run} {result.solver}"
            lines.setdefault((result.place, name), []).append((x, result.distance.value, result.solver))
    return [
        Line(place, [(x, y) for x, y, _ in sorted(points)], [solver for _, _, solver in sorted(points)])
        for (place, _), points in lines.items()
    ]


def key(entries: dict[int, str]) -> Key:
    """Return the names of lines by their places."""
    looks = {place: look(place) for place in entries}
    return Key([(name, looks[place][0], DASHES[looks[place][1]]) for place, name in entries.items()])


def others(groups: Sequence[Group]) -> list[Block]:
    """Return a table of every number of each report, to be unfolded."""
    blocks: list[Block] = []
    for group in groups:
        for stage in group.stages:
            for file, report in stage.reports.items():
                caption = f"every number of {label(group, stage, groups)}, {file}"
                blocks.append(_numbers(report, caption))
    return blocks


def _numbers(report: dict[str, Any], caption: str) -> Table:
    metrics = report["metrics"]
    spread = report.get("spread", {})
    rows = [
        [tag, "not finite" if value is None else f"{value:.6g}", number_or_dash(spread.get(tag), ".2g")]
        for tag, value in sorted(metrics.items())
    ]
    return Table(["number", "value", "±"], rows, caption, folded=True)


def methods(groups: Sequence[Group]) -> list[Block]:
    """Return the table and plot of ``flowlit arena`` where the runs are in its folders.

    A comparison that it refuses is a line that says why.
    """
    from ..arena.plot import plot
    from ..arena.rows import compare
    from ..arena.runs import find_runs
    from ..arena.table import LEFT, caption, cells

    roots = {group.folder.resolve() for group in groups}
    bases = {root.parent.parent for root in roots} if len(roots) > 1 else set()
    if len(bases) != 1 or any(stage.done is None for group in groups for stage in group.stages):
        return []
    try:
        runs = find_runs(bases.pop())
        if {run.root for run in runs.finished} - roots:
            return []
        arena = compare(runs)
    except FlowlitError as error:
        return [Lines([f"no comparison of methods: {error}"])]
    first, *rows = cells(arena)
    words = "three plots: distance over evaluations in training, over NFE, over parameters"
    return [
        Table(first, rows, caption(arena), left=LEFT),
        Lines(arena.notes),
        Figure(embedded(plot(arena)), f"{words}; the numbers are in the table above", wide=True),
    ]
