"""A recipe of stages, each an ordinary flowlit command in a process of its own.

A stage is done for good under a key: the hash of its command, the content of its configuration, its options
and the keys of the stages it needs. A finished stage with the same key is skipped; an interrupted one goes
on; one whose key changed is put aside into ``.stale`` (and comes back if the key does), so that nothing that
was computed is lost.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..._support.nested import flatten
from ..._version import __version__
from ...errors import FlowlitError
from .._yaml import load_yaml, read_yaml
from .children import PARENT, run_child
from .state import move, read_state, write_state


@dataclass
class Stage:
    """One command of a recipe.

    Args:
        command: fit, couple, validate, test or predict.
        config: YAML file or files, later ones winning.
        writes: its result, relative to the recipe's root; the first folder of that path belongs to the stage.
        needs: stages that must be done before.
        options: dotted command-line options and their values.
    """

    name: str
    command: str
    config: str | list[str]
    writes: str
    needs: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def configs(self) -> list[str]:
        return [self.config] if isinstance(self.config, str) else self.config

    def folder(self, root: Path) -> Path:
        return root / Path(self.writes).parts[0]

    def content(self) -> dict[str, Any]:
        """Everything that decides the result of the stage itself, flat."""
        facts: dict[str, Any] = {"command": self.command, "flowlit": __version__}
        for path in self.configs:
            facts |= flatten(read_yaml(path))
        for key, value in self.options.items():
            named = isinstance(value, str) and value.endswith(".yaml") and Path(value).is_file()
            facts |= flatten(read_yaml(value), f"--{key}") if named else {f"--{key}": value}
        return facts

    def arguments(self, root: Path) -> list[str]:
        """Return the words after ``flowlit``."""
        words = [self.command]
        for path in self.configs:
            words += ["-c", path]
        words += ["--vars.root", str(root)]
        for key, value in self.options.items():
            words += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
        return words


@dataclass
class Plan:
    """An action for a stage, and its reason."""

    stage: Stage
    action: str  # "done", "resume" or "run"
    reason: str
    key: str
    content: dict[str, Any]


@dataclass
class Recipe:
    """Stages in order, a root folder, and the rows of the closing table."""

    root: Path
    stages: list[Stage]
    table: list[dict[str, str]]

    @classmethod
    def read(cls, path: str, root: str | None = None) -> Recipe:
        """Read a recipe.

        Raises:
            FlowlitError: for unknown keys, or a stage that needs one which does not come before it.
        """
        content = read_recipe(path)
        if unknown := set(content) - {"root", "stages", "table"}:
            raise FlowlitError(f"{path}: unknown keys {sorted(unknown)}; a recipe has root, stages and table")
        stages: list[Stage] = []
        for name, fields in content["stages"].items():
            try:
                stage = Stage(name=name, **fields)
            except TypeError as error:
                raise FlowlitError(
                    f"{path}: stage {name}: {error}; it has command, config, writes, needs, options"
                ) from error
            if missing := set(stage.needs) - {s.name for s in stages}:
                raise FlowlitError(f"{path}: stage {name} needs {sorted(missing)}, which must come before it")
            if taken := [s.name for s in stages if s.folder(Path()) == stage.folder(Path())]:
                raise FlowlitError(
                    f"{path}: stages {taken[0]} and {name} write into the same folder {stage.folder(Path())}"
                )
            stages.append(stage)
        return cls(Path(root or content["root"]), stages, content.get("table", []))

    def override(self, words: Sequence[str]) -> None:
        """Add options given as --stage.option value (or --stage.option=value).

        Raises:
            FlowlitError: if there is no such stage.
        """
        remaining = list(words)
        while remaining:
            word = remaining.pop(0)
            key, equals, value = word.removeprefix("--").partition("=")
            name, dot, option = key.partition(".")
            stage = next((s for s in self.stages if s.name == name), None)
            if not word.startswith("--") or not dot or stage is None or not (equals or remaining):
                names = ", ".join(s.name for s in self.stages)
                raise FlowlitError(
                    f"unknown argument {word!r}; override a stage by --stage.option value, stages are {names}"
                )
            stage.options[option] = value if equals else remaining.pop(0)

    def plans(self) -> list[Plan]:
        """Decide about every stage."""
        plans: dict[str, Plan] = {}
        for stage in self.stages:
            upstream = {name: plans[name].key for name in stage.needs}
            content = stage.content()
            key = hashlib.sha256(
                json.dumps([content, upstream], sort_keys=True, default=str).encode()
            ).hexdigest()[:16]
            waiting = [name for name in stage.needs if plans[name].action != "done"]
            plans[stage.name] = Plan(stage, *self._decide(stage, key, content, waiting), key, content)
        return list(plans.values())

    def _decide(self, stage: Stage, key: str, content: dict[str, Any], waiting: list[str]) -> tuple[str, str]:
        state = read_state(stage.folder(self.root))
        result = self.root / stage.writes
        if state is None or state["key"] != key:
            if stale := read_state(self.stale(stage, key)):
                action = "done" if stale["done"] else "resume"
                return action, "an earlier run with this configuration is taken up again"
            if state is None:
                return "run", "it has not run yet"
            before = state["content"]
            changed = [
                f"{k}: {before.get(k, 'unset')} → {content.get(k, 'unset')}"
                for k in sorted({*before, *content})
                if before.get(k) != content.get(k)
            ]
            if changed:
                return "run", f"changed: {'; '.join(changed[:3])}"
            return "run", f"it depends on {', '.join(waiting or stage.needs)}"
        if not state["done"]:
            return "resume", "it was interrupted"
        if not result.exists():
            return "run", f"{result} has disappeared"
        if state.get("result") not in (None, _measured(stage, result)):
            return "run", f"{result} was replaced by hand"
        return "done", f"took {state['seconds']:.0f} s"

    def stale(self, stage: Stage, key: str) -> Path:
        """Return the place where the stage's folder is put aside."""
        return self.root / ".stale" / f"{stage.folder(self.root).name}-{key}"

    def prepare(self, plan: Plan) -> None:
        """Make the stage's folder hold what belongs to its key, putting aside what does not."""
        folder = plan.stage.folder(self.root)
        state = read_state(folder)
        if state is not None and state["key"] != plan.key:
            move(folder, self.stale(plan.stage, state["key"]))
        stale = self.stale(plan.stage, plan.key)
        if not folder.exists() and stale.exists():
            move(stale, folder)

    def run(self, plan: Plan) -> None:
        """Carry out one stage.

        Raises:
            FlowlitError: if its process fails.
        """
        self.prepare(plan)
        stage = plan.stage
        folder = plan.stage.folder(self.root)
        if plan.action == "done":
            return
        before = read_state(folder)
        spent = before["seconds"] if before and not before["done"] else 0.0
        words = stage.arguments(self.root)
        if stage.command == "fit" and plan.action == "resume":
            words += ["--resume", "auto"]
        write_state(folder, plan.key, plan.content, done=False, seconds=spent)
        print(f"\n── {stage.name}: flowlit {' '.join(words)}", flush=True)
        start = time.monotonic()
        child = {
            **os.environ,
            PARENT: str(os.getpid()),
        }  # a stage must not outlive a pipeline that was killed
        code = run_child([sys.executable, "-m", "flowlit", *words], child)
        if code != 0:
            raise FlowlitError(
                f"stage {stage.name} failed with exit code {code}; mend it and run the same pipeline again"
            )
        if not (self.root / stage.writes).exists():
            raise FlowlitError(
                f"stage {stage.name} ended without writing {self.root / stage.writes}; check `writes` in "
                "the recipe"
            )
        seconds = spent + time.monotonic() - start
        result = _measured(stage, self.root / stage.writes)
        write_state(folder, plan.key, plan.content, done=True, seconds=seconds, result=result)


def read_recipe(path: str) -> dict[str, Any]:
    """Read the recipe itself; the configurations it names stay names."""
    content = load_yaml(path, "recipe {} does not exist; the shipped ones are in experiments/recipes/")
    if not isinstance(content, dict) or "stages" not in content or "root" not in content:
        raise FlowlitError(f"{path} is not a recipe; expected root and stages")
    return content


def _measured(stage: Stage, result: Path) -> str | None:
    """Hash of what an evaluation wrote: another one by hand into the same folder must not end up in the
    table.
    """
    return hashlib.sha256(result.read_bytes()).hexdigest() if stage.command in ("validate", "test") else None
