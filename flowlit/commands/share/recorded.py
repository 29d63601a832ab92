"""Records of a checkpoint in the runs beside it: its recipe, and measurements of its very weights."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from ...generators.files import run_of
from ...metrics.report import reports_of
from ...networks.checkpoints.fingerprint import fingerprint
from ...types import loaded_of
from ..report.find import Group, group_of
from ..report.stage import Stage


@dataclass
class Records:
    """Runs that led to a checkpoint, and those that measured it."""

    recipe: list[Stage] = field(default_factory=list)
    measured: list[Stage] = field(default_factory=list)
    """With the reports of these weights alone."""

    @property
    def reports(self) -> list[dict[str, Any]]:
        return [report for stage in self.measured for report in stage.reports.values()]


def recorded(network: nn.Module, checkpoint: str) -> Records:
    """Return the records of a network that was read from a run; nothing where there is no run."""
    file = (loaded_of(network) or {}).get("file")
    folder = run_of(Path(str(file)) if file else Path(checkpoint)).absolute()
    group = group_of(folder.parent)
    reports = reports_of(folder, fingerprint(network))
    measured = [_with(stage, reports) for stage in group.stages]
    return Records(_ancestors(group, folder.name), [stage for stage in measured if stage.reports])


def _with(stage: Stage, reports: dict[Path, dict[str, Any]]) -> Stage:
    """Return a run with those of the reports that are in its folder, and no others."""
    own = {path.name: report for path, report in reports.items() if path.parent == stage.folder}
    return replace(stage, reports=own)


def _ancestors(group: Group, name: str) -> list[Stage]:
    """Return a run and all that it needs, in their order; nothing if there is no such run."""
    needed = {name}
    for stage in reversed(group.stages):
        if stage.name in needed:
            needed |= set(stage.needs)
    return [stage for stage in group.stages if stage.name in needed]
