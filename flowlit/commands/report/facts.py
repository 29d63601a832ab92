"""Facts behind the numbers: protocol, cost, commands, environment, settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..._support.formatting import duration, number_or_dash
from ..._support.nested import flatten
from ..._support.places import without_folders
from .blocks import Block, Commands, Table, Text
from .find import Group
from .results import label
from .stage import Stage

SETTINGS = 12
"""Settings in which runs differ that a table has, at most."""

PROTOCOL = (
    ("images", "images"),
    ("noise.seed", "seed of the noise"),
    ("noise.labels", "classes of the noise"),
    ("weights", "weights"),
    ("precision", "precision"),
    ("rounding", "rounding"),
    ("rows_of_a_block", "rows of a block"),
)
"""Fields of a report, and their names; features and solvers follow."""

Named = Iterator[tuple[str, Stage]]


def each(groups: Sequence[Group]) -> Named:
    """Yield every run with its name on the page."""
    for group in groups:
        for stage in group.stages:
            yield label(group, stage, groups), stage


def protocols(groups: Sequence[Group]) -> list[Block]:
    """Return how images were made and measured, once for all reports that agree in it."""
    reports = [
        (f"{name} ({file})" if len(stage.reports) > 1 else name, report)
        for name, stage in each(groups)
        for file, report in stage.reports.items()
    ]
    blocks = _shared(reports, _protocol, ["protocol", ""])
    fields = ("checkpoint.file", "checkpoint.sha256", "date", "seconds")
    rows = [[name, *(_text(report, field) for field in fields)] for name, report in reports]
    header = ["run", "checkpoint", "SHA-256", "measured on", "seconds"]
    return [*blocks, Table(header, rows, "checkpoints that were measured", left=4)] if rows else []


def _protocol(report: dict[str, Any]) -> list[list[str]]:
    rows = [[words, _text(report, field)] for field, words in PROTOCOL]
    for name, features in report.get("features", {}).items():
        rows.append([f"features {name}", _set(features)])
        source = _text(features, "reference.source")
        real = _set(_mapping(features.get("reference")), "count")
        rows.append([f"compared with ({name})", ", ".join(filter(None, [source, real]))])
    for name, solver in _mapping(report.get("solvers")).items():
        rows.append([f"solver {name}", spelt(solver)])
    data = _mapping(report.get("data"))
    if data:
        name = without_folders(_text(data, "name"))
        rows.append(["trained on", f"{name}, {_text(data, 'images')} images"])
    return [row for row in rows if row[1]]


def _set(facts: dict[str, Any], count: str = "images") -> str:
    """Return the number and the hash of a set of images, or of features, in words."""
    mark = _text(facts, "sha256")[:12]
    return ", ".join([f"{_text(facts, count)} images", *[f"SHA-256 {mark}"] * bool(mark)])


def environments(groups: Sequence[Group]) -> list[Block]:
    """Return machine and versions, once for all reports that agree in them."""
    reports = [(name, report) for name, stage in each(groups) for report in stage.reports.values()]

    def facts(report: dict[str, Any]) -> list[list[str]]:
        parts = {**_mapping(report.get("hardware")), **_mapping(report.get("versions"))}
        return [[key, str(value)] for key, value in parts.items()]

    blocks = _shared(reports, facts, ["environment", ""])
    return blocks or [Text("No run has recorded its machine: evaluations do, by the callback Report.")]


def _shared(
    reports: Sequence[tuple[str, dict[str, Any]]], facts: Callable[[Any], list[list[str]]], header: list[str]
) -> list[Block]:
    """Return a table of facts for all reports that have the same."""
    names: dict[str, list[str]] = {}
    tables: dict[str, list[list[str]]] = {}
    for name, report in reports:
        rows = facts(report)
        if rows:
            names.setdefault(repr(rows), []).append(name)
            tables[repr(rows)] = rows
    return [Table(header, rows, f"of {listed(names[place])}", left=2) for place, rows in tables.items()]


def listed(names: Sequence[str]) -> str:
    """Return names on one line, of many the first."""
    own = list(dict.fromkeys(names))
    return ", ".join(own[:8]) + (f" and {len(own) - 8} more" if len(own) > 8 else "")


def costs(groups: Sequence[Group]) -> list[Block]:
    """Return time and counted cost of every run; columns that no run has are left out."""
    header = [
        "run",
        "command",
        "time",
        "logged for",
        "measured for",
        "steps",
        "images",
        "with gradient",
        "without",
    ]
    header += ["training", "processor", "pairs", "NFE of pairs"]
    rows = [[name, stage.command or "–", *_costs(stage)] for name, stage in each(groups)]
    columns = [i for i in range(len(header)) if i < 2 or any(row[i] != "–" for row in rows)]
    chosen = [[row[i] for i in columns] for row in rows]
    words = "time is that of the whole command; evaluations are counted in training, one for each sample"
    return [Table([header[i] for i in columns], chosen, words, left=2)]


def _costs(stage: Stage) -> list[str]:
    pairs = stage.pairs or {}
    cells = [_time(stage.seconds), _time(stage.curves.seconds), _time(_measured(stage)), *["–"] * 6]
    if stage.cost is not None:
        evaluations = stage.cost.evaluations()
        counts = (
            stage.cost.steps,
            stage.cost.images,
            evaluations.with_gradient,
            evaluations.without_gradient,
        )
        times = (stage.cost.seconds, stage.cost.processor_seconds)
        cells[3:] = [*(f"{count:,}" for count in counts), *map(_time, times)]
    nfe = (pairs.get("nfe") or {}).get("mean")
    return [*cells, number_or_dash(pairs.get("count"), ",d"), number_or_dash(nfe, ".4g")]


def _measured(stage: Stage) -> float | None:
    """Return the seconds that the evaluations of a run took."""
    seconds = [report.get("seconds") for report in stage.reports.values()]
    known = [float(value) for value in seconds if isinstance(value, (int, float)) and 0 <= value < 1e12]
    return sum(known) if known else None


def _time(seconds: float | None) -> str:
    return "–" if seconds is None else duration(seconds)


def command_lines(groups: Sequence[Group]) -> list[Block]:
    """Return the command lines of all runs."""
    entries = [
        (f"{name}, {source}", words) for name, stage in each(groups) for words, source in stage.commands
    ]
    lacking = [name for name, stage in each(groups) if not stage.commands]
    blocks: list[Block] = [Commands(entries)] if entries else []
    if lacking:
        blocks.append(Text(f"Not recorded: {listed(lacking)}. What decided about them is under Settings."))
    return blocks


def differences(groups: Sequence[Group]) -> list[Block]:
    """Return tables of the settings in which runs of one stage differ."""
    blocks: list[Block] = []
    for name in dict.fromkeys(stage.name for group in groups for stage in group.stages):
        own = [(group, stage) for group in groups for stage in group.stages if stage.name == name]
        contents = [_comparable(group, stage) for group, stage in own]
        keys = dict.fromkeys(key for content in contents for key in content)
        different = [key for key in keys if len({content.get(key, "–") for content in contents}) > 1]
        if len(own) < 2 or not different:
            continue
        shown = different[:SETTINGS]
        more = f"; {len(different) - len(shown)} more are not shown" if len(different) > len(shown) else ""
        rows = [
            [group.name, *(content.get(key, "–") for key in shown)]
            for (group, _), content in zip(own, contents, strict=True)
        ]
        header = ["run", *(key.replace("init_args.", "") for key in shown)]
        blocks.append(Table(header, rows, f"differences in {name}{more}", left=len(header)))
    return blocks


def _comparable(group: Group, stage: Stage) -> dict[str, str]:
    """Return settings as text, without the root's name in paths."""
    content = {}
    for key, value in stage.content.items():
        if not key.removeprefix("--").startswith("vars.root"):
            parts = str(value).split("/")
            content[key] = "/".join("…" if part == group.folder.name else part for part in parts)
    return content


def settings(groups: Sequence[Group]) -> list[Block]:
    """Return every setting of every run, to be unfolded."""
    return [
        Table(
            ["setting", "value"],
            [[key, str(value)] for key, value in stage.content.items()],
            f"settings of {name}",
            left=2,
            folded=True,
        )
        for name, stage in each(groups)
        if stage.content
    ]


def spelt(solver: Any) -> str:
    """Write a class with its arguments on one line.

    >>> spelt({"class_path": "flowlit.solvers.Euler", "init_args": {"steps": 1}})
    'Euler(steps=1)'
    """
    if not isinstance(solver, dict) or "class_path" not in solver:
        return str(solver)
    arguments = flatten(solver["init_args"]) if _mapping(solver.get("init_args")) else {}
    name = str(solver["class_path"]).rpartition(".")[2]
    return f"{name}({', '.join(f'{key}={value}' for key, value in arguments.items())})"


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(facts: Any, field: str) -> str:
    """Return a field of nested facts as text; '' where there is none."""
    for part in field.split("."):
        facts = _mapping(facts).get(part)
    if isinstance(facts, int) and not isinstance(facts, bool):
        return f"{facts:,}" if abs(facts) >= 10_000 else str(facts)
    return "" if facts is None else str(facts)
