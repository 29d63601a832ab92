"""Records of one run, and what it lacks. Read without torch."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..._support.nested import flatten
from ...couplings.store.manifest import read_manifest
from ...errors import FlowlitError
from ...metrics.report import FILES, REPORT
from ...metrics.training_cost import COSTS, FILE, TrainingCosts
from .._yaml import load_yaml
from ..pipeline.state import STATE
from .curves import Curves, read_curves

T = TypeVar("T")

CONFIGS = {"fit": "config.yaml"}
"""Files of saved configurations; of other commands config_<command>.yaml."""


@dataclass
class Stage:
    """A run: a stage of a pipeline, or one that was started by hand."""

    name: str
    folder: Path
    command: str = ""
    """Empty if nothing says it."""
    done: bool | None = None
    """None of runs that no pipeline has started."""
    seconds: float | None = None
    content: dict[str, Any] = field(default_factory=dict)
    """Configuration, flat."""
    commands: list[tuple[str, str]] = field(default_factory=list)
    """Command lines, and where each is from."""
    reports: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What metrics*.json hold, by name."""
    cost: TrainingCosts | None = None
    pairs: dict[str, Any] | None = None
    """Manifest of couplings."""
    curves: Curves = field(default_factory=Curves)
    needs: list[str] = field(default_factory=list)
    """Names of runs of the same root whose results it reads."""
    reads: list[str] = field(default_factory=list)
    """Other files that it reads."""
    problems: list[str] = field(default_factory=list)

    def tried(self, read: Callable[[], T]) -> T | None:
        """Return what a function reads; None, with a line among the problems, if it is damaged."""
        try:
            return read()
        except (FlowlitError, OSError, ValueError, RecursionError) as error:
            self.problems.append(str(error))
            return None


def read_stage(folder: Path, events: bool = True) -> Stage:
    """Read what a run's folder holds, on demand with its event files; what is damaged is a line among the
    problems.
    """
    stage = Stage(folder.name or folder.resolve().name, folder)
    _read_state(stage)
    _read_configurations(stage)
    for name in FILES.values():
        file = folder / name
        report = stage.tried(lambda file=file: REPORT.read(file)) if file.exists() else None  # type: ignore[misc]
        if report is not None:
            stage.reports[name] = report
            stage.command = stage.command or str(report.get("command", ""))
    if (folder / FILE).exists():
        stage.cost = stage.tried(lambda: COSTS.check(COSTS.read(folder / FILE), folder / FILE))
    if (folder / "manifest.json").exists():
        stage.command = stage.command or "couple"
        stage.pairs = stage.tried(lambda: read_manifest(folder))
    if events:
        stage.curves = read_curves(folder)
    stage.problems += stage.curves.problems
    stage.problems += _lacking(stage)
    return stage


def _read_state(stage: Stage) -> None:
    file = stage.folder / "stage.json"
    state = stage.tried(lambda: STATE.read(file)) if file.exists() else None
    if state is None:
        return
    stage.done = state["done"]
    stage.seconds = state["seconds"]
    stage.content = state["content"]
    stage.command = str(stage.content.get("command", ""))
    if state.get("words"):
        stage.commands.append((shlex.join(["flowlit", *state["words"]]), "by the pipeline"))
    if not stage.done:
        stage.problems.append("it is not finished: the pipeline was interrupted, or is at work")


def _read_configurations(stage: Stage) -> None:
    """Read the configurations that commands have saved, each of which runs the same again."""
    for file in sorted(stage.folder.glob("config*.yaml")):
        command = "fit" if file.name == CONFIGS["fit"] else file.stem.removeprefix("config_")
        content = stage.tried(lambda file=file: load_yaml(file))  # type: ignore[misc]
        if not isinstance(content, dict):
            stage.problems += [] if content is None else [f"{file} holds no mapping"]
            continue
        stage.command = stage.command or command
        stage.content = stage.content or flatten(content)
        stage.commands.append((shlex.join(["flowlit", command, "-c", str(file)]), "saved configuration"))


def _lacking(stage: Stage) -> list[str]:
    """Return lines on what a run of its command writes, and this one has not."""
    lacking = []
    if not stage.command:
        lacking.append("nothing says which command it was: no stage.json, no saved configuration")
    if stage.command == "fit":
        if not stage.curves.scalars:
            lacking.append("no curves: there are no numbers in event files of TensorBoard")
        if not any((stage.folder / "checkpoints").glob("*.ckpt")):
            lacking.append("no checkpoint")
        if stage.cost is None:
            lacking.append("training cost not counted: no callback TrainingCost")
    if stage.command in FILES and FILES[stage.command] not in stage.reports:
        lacking.append(f"no {FILES[stage.command]}: nothing was measured, or the callback Report is missing")
    if stage.command == "couple" and stage.pairs is None:
        lacking.append("no couplings")
    if stage.pairs is not None and not stage.pairs["complete"]:
        lacking.append("its couplings are not all there")
    if not stage.commands:
        lacking.append("its command line was not recorded")
    return lacking
