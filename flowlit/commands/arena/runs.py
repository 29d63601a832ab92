"""Runs of a benchmark: what their stages have written. Read without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...couplings.store.manifest import read_manifest
from ...errors import FlowlitError
from ...metrics.report import FILES, REPORT
from ...metrics.training_cost import COSTS, FILE
from ..pipeline.state import STATE

TRAINS = ("fit", "couple")
"""Commands whose time and evaluations are a method's cost."""


@dataclass
class Cost:
    """Cost of all trainings and couplings of a run."""

    with_gradient: int = 0
    without_gradient: int = 0
    processor_seconds: float = 0.0
    seconds: float = 0.0
    counted: int = 0
    """Stages whose evaluations were counted."""
    uncounted: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Return whether the evaluations of all stages were counted, and there is one."""
        return self.counted > 0 and not self.uncounted


@dataclass(eq=False)
class Run:
    """A finished run: its cost, and the report of each stage that measures."""

    method: str
    seed: str
    """Name of its folder below the method's; empty for a root without seeds."""
    root: Path
    cost: Cost = field(default_factory=Cost)
    reports: dict[str, dict[str, Any]] = field(default_factory=dict)
    contents: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Configuration of each stage, flat."""
    inputs: dict[str, str] = field(default_factory=dict)
    """Hashes of what its trainings and couplings read from outside of the run, by path."""

    @property
    def name(self) -> str:
        return f"{self.method}/{self.seed}".rstrip("/")


@dataclass
class Runs:
    """Finished runs, and the names of others with what they lack."""

    folder: Path
    finished: list[Run] = field(default_factory=list)
    incomplete: dict[str, str] = field(default_factory=dict)

    def leave_out(self, run: Run, reason: str) -> None:
        """Count a run among those that are not finished."""
        self.incomplete[run.name] = reason
        self.finished = [other for other in self.finished if other is not run]


def find_runs(folder: Path) -> Runs:
    """Read all runs in a folder: FOLDER/<method>/<seed>, or FOLDER/<method> where there are no seeds.

    Raises:
        FlowlitError: if the folder does not exist, or holds no run that is finished.
    """
    if not folder.is_dir():
        raise FlowlitError(f"{folder} is no folder; expected one with <method>/<seed> of pipelines in it")
    runs = Runs(folder)
    for method in _folders(folder):
        for root in [method] if _stages(method) else _folders(method):
            run = Run(method.name, "" if root == method else root.name, root)
            try:
                read_run(run)
            except FlowlitError as error:
                runs.incomplete[run.name] = str(error)
            else:
                runs.finished += [run] if run.reports else []
    _leave_out_shorter(runs)
    if not runs.finished:
        why = "; ".join(f"{name}: {reason}" for name, reason in runs.incomplete.items())
        raise FlowlitError(
            f"{folder} has no finished run; expected <method>/<seed>, roots of pipelines"
            + (f" ({why})" if why else "")
        )
    return runs


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _stages(root: Path) -> list[Path]:
    return [path for path in _folders(root) if (path / "stage.json").exists()]


def read_run(run: Run) -> None:
    """Read what the stages of a run have written.

    Raises:
        FlowlitError: if it is not finished, or a file is damaged.
    """
    folders = _stages(run.root)
    if not folders:
        raise FlowlitError("no stage has begun")
    for folder in folders:
        state = STATE.read(folder / "stage.json")
        if not state["done"]:
            raise FlowlitError(f"stage {folder.name} is not done")
        command = str(state["content"].get("command"))
        run.contents[folder.name] = state["content"]
        if command in TRAINS:
            run.cost.seconds += state["seconds"]
            run.inputs |= (state.get("inputs") or {}) | (state.get("contents") or {})
        if command == "fit":
            _add_training(run.cost, folder)
        elif command == "couple":
            _add_pairs(run.cost, folder)
        elif command in FILES:
            run.reports[folder.name] = REPORT.read(folder / FILES[command])
    if run.seed and not run.reports:
        raise FlowlitError("no stage has measured anything")


def _add_training(cost: Cost, folder: Path) -> None:
    if not (folder / FILE).exists():
        cost.uncounted.append(folder.name)
        return
    record = COSTS.check(COSTS.read(folder / FILE), folder / FILE)
    if record.first_step:
        raise FlowlitError(f"the counts of stage {folder.name} begin at step {record.first_step:,}")
    evaluations = record.evaluations()
    cost.with_gradient += evaluations.with_gradient
    cost.without_gradient += evaluations.without_gradient
    cost.processor_seconds += record.processor_seconds
    cost.counted += 1


def _add_pairs(cost: Cost, folder: Path) -> None:
    manifest = read_manifest(folder)
    if not manifest["complete"]:
        raise FlowlitError(f"pairs of stage {folder.name} are not all there")
    cost.without_gradient += sum(shard["nfe"]["sum"] for shard in manifest["shards"])
    cost.counted += 1


def _leave_out_shorter(runs: Runs) -> None:
    """Leave out runs that lack a stage which others of their method have."""
    for run in runs.finished:
        others = {stage for other in runs.finished if other.method == run.method for stage in other.contents}
        missing = sorted(others - set(run.contents))
        if missing:
            runs.leave_out(run, f"stage {', '.join(missing)} has not run")


def solvers_of(report: dict[str, Any]) -> list[str]:
    """Return the solvers whose evaluations a report counts."""
    return [tag.removeprefix("nfe/") for tag in report["metrics"] if tag.startswith("nfe/")]


def number(report: dict[str, Any], tag: str) -> float | None:
    """Return a number of a report; None where it was not measured, or is not finite."""
    value = report["metrics"].get(tag)
    return None if value is None or not math.isfinite(value) else value
