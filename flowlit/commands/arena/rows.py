"""Comparison of runs: means over seeds, the best first. Read without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from PIL import Image

from ...errors import FlowlitError
from .copies import Groups, drop_copies
from .protocol import Measured, features_of, mean_of, protocol_of, tags
from .record import Arena, Row
from .remarks import agreement, different, left_out, mark_off_budget, other_inputs, other_machines, uncounted
from .runs import Runs, number, solvers_of


def compare(runs: Runs, features: str = "") -> Arena:
    """Compare finished runs.

    Args:
        runs: of several methods.
        features: whose distance counts; those that all reports have unless given.

    Raises:
        FlowlitError: if they were measured by different protocols, or a seed trained another network.
    """
    reports = [Measured(run, stage, report) for run in runs.finished for stage, report in run.reports.items()]
    features = features_of(reports, features)
    protocol = protocol_of(reports, features)
    for each in reports:
        missing = lacks(each.report, features)
        if missing:
            runs.leave_out(each.run, f"{each.stage} has no finite {', '.join(missing)}")
    reports = [each for each in reports if each.run in runs.finished]
    if not reports:
        raise FlowlitError(f"{runs.folder} has no run with finite distances; run the evaluations again")
    groups: Groups = {}
    for each in reports:
        for solver in solvers_of(each.report):
            groups.setdefault((each.run.method, each.stage, solver), []).append(each)
    copies = drop_copies(groups)
    rows = sorted(
        (_row(*key, group, features) for key, group in groups.items()), key=lambda row: row.distance
    )
    _name(rows)
    notes = [*mark_off_budget(rows, runs.finished), *left_out(runs)]
    notes += [*uncounted(runs.finished), *different(runs.finished)]
    notes += [*other_inputs(runs.finished), *other_machines(reports)]
    notes += [*copies, *agreement(groups, features)]
    samples, others = _samples(rows, reports)
    return Arena(protocol, rows, runs.incomplete, [*notes, *others], samples)


def lacks(report: dict[str, Any], features: str) -> list[str]:
    """Return the numbers that a report lacks, or that are not finite."""
    tag = tags(features)[0]
    solvers = solvers_of(report)
    names = [f"{name}/{solver}" for solver in solvers for name in ("nfe", tag)] or ["nfe"]
    missing = [name for name in names if number(report, name) is None]
    return missing if report.get("params") is not None else [*missing, "params"]


def _name(rows: Sequence[Row]) -> None:
    """Name rows by their method, and by the stage, too, where a method has several that measure.

    What all methods share is named by the stage alone.
    """
    for row in rows:
        if row.seeds == [""]:
            row.name = row.stage.removeprefix("evaluate_")
        elif len({other.stage for other in rows if other.method == row.method}) > 1:
            row.name = f"{row.method}: {row.stage.removeprefix('evaluate_')}"


def _row(method: str, stage: str, solver: str, group: Sequence[Measured], features: str) -> Row:
    tag, extrapolated, kernel = tags(features)
    distances = [each.report["metrics"][f"{tag}/{solver}"] for each in group]
    costs = [each.run.cost for each in group]
    trained = all(cost.complete for cost in costs)
    return Row(
        method=method,
        stage=stage,
        solver=solver,
        name=method,
        seeds=[each.run.seed for each in group],
        parameters=_parameters(group),
        nfe=fmean(each.report["metrics"][f"nfe/{solver}"] for each in group),
        distance=fmean(distances),
        spread=stdev(distances) if len(distances) > 1 else None,
        extrapolated=mean_of(group, f"{extrapolated}/{solver}"),
        kernel=mean_of(group, f"{kernel}/{solver}"),
        with_gradient=fmean(cost.with_gradient for cost in costs) if trained else None,
        without_gradient=fmean(cost.without_gradient for cost in costs) if trained else None,
        processor_hours=fmean(cost.processor_seconds for cost in costs) / 3600 if trained else None,
        hours=fmean(cost.seconds for cost in costs) / 3600,
        images_per_s=mean_of(group, f"images_per_s/{solver}"),
    )


def _parameters(group: Sequence[Measured]) -> int:
    first = group[0]
    for each in group:
        if each.report["params"] != first.report["params"]:
            raise FlowlitError(
                f"{first.name} and {each.name} have {first.report['params']:,} and "
                f"{each.report['params']:,} parameters; train one of them again"
            )
    return first.report["params"]


def _samples(rows: Sequence[Row], reports: Sequence[Measured]) -> tuple[dict[str, str], list[str]]:
    """Return the grid of each method by fewest evaluations, from the same noise, and lines on the others."""
    grids: dict[str, str] = {}
    lines = []
    noise: Any = None
    fewest: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: row.nfe):
        fewest.setdefault(row.method, row)
    for row in sorted(fewest.values(), key=lambda row: row.distance):
        first = next(each for each in reports if (each.run.method, each.stage) == (row.method, row.stage))
        file = first.run.root / row.stage / "samples" / f"{row.solver}.png"
        noise = noise or first.report.get("noise")
        damage = _damage(file)
        if damage:
            lines.append(f"no samples of {row.name}: {file} {damage}")
        elif first.report.get("noise") != noise:
            lines.append(f"no samples of {row.name}: they are from other noise")
        else:
            grids[f"{row.name}, {row.solver}"] = str(file)
    return grids, lines


def _damage(file: Path) -> str:
    """Return what is wrong with a picture; "" if nothing is."""
    try:
        with Image.open(file) as image:
            image.load()
    except FileNotFoundError:
        return "does not exist"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return f"cannot be read ({error})"
    return ""
