"""A recipe of stages, each an ordinary flowlit command in a process of its own.

A stage is done for good under a key: the hash of its command, the content of its configuration, its options,
the stamps of its inputs and the keys of the stages it needs. A finished stage with the same key is skipped;
an interrupted one goes on; one whose key changed is put aside into ``.stale`` (and comes back if the key
does), so that nothing that was computed is lost.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..._support.suggestions import did_you_mean
from ...errors import FlowlitError
from .._yaml.trust import check_class_paths, trusted
from .budget import Budget, counted, read_budget
from .children import environment, run_child
from .pictures import from_images
from .plan import EVALUATE, Plan, decide, measured, stale
from .reading import read_recipe, read_table, stated_needs
from .stage import Stage, read_stage
from .stamps import GONE, Stamps
from .state import move, read_state, write_state
from .variables import Variables, check_variables, in_place, overridden, root_in_place, settle


@dataclass
class Recipe:
    """Stages in order, a root folder, and the rows of the closing table; its file, then those it includes."""

    root: Path
    stages: list[Stage]
    table: list[dict[str, str]]
    trust: bool = True
    """Stages may run classes of any package."""
    variables: Variables = field(default_factory=dict)
    budget: Budget | None = None
    files: list[str] = field(default_factory=lambda: [""])

    @classmethod
    def read(cls, path: str, root: str = "", overrides: Sequence[str] = ()) -> Recipe:
        """Read a recipe, with what the command line says of its stages and variables.

        Raises:
            FlowlitError: for unknown keys, or a stage that needs one which does not come before it.
        """
        content, files = read_recipe(path, overrides)
        stages: list[Stage] = []
        for name, fields in content["stages"].items():
            stage = read_stage(path, name, fields)
            if missing := set(stage.needs) - {s.name for s in stages}:
                raise FlowlitError(f"{path}: stage {name} needs {sorted(missing)}, which must come before it")
            if taken := [s.name for s in stages if s.folder(Path()) == stage.folder(Path())]:
                raise FlowlitError(
                    f"{path}: stages {taken[0]} and {name} write into the same folder {stage.folder(Path())}"
                )
            stages.append(stage)
        evaluations = [stage.name for stage in stages if stage.command in EVALUATE]
        table = read_table(path, content.get("table") or [], evaluations)
        variables = check_variables(path, content.get("vars") or {})
        budget = read_budget(path, content.get("budget"), stages)
        recipe = cls(Path(root or content["root"]), stages, table, True, variables, budget, files)
        recipe.override(overrides)
        return recipe

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
            if word.startswith("--vars.") and option and (equals or remaining):
                value = value if equals else remaining.pop(0)
                self.variables = overridden(self.variables, option, value, self.stages, self.files)
                continue
            stage = next((s for s in self.stages if s.name == name), None)
            if not word.startswith("--") or not dot or stage is None or not (equals or remaining):
                names = [s.name for s in self.stages]
                meant = did_you_mean(name, names) if stage is None else ""
                raise FlowlitError(
                    f"unknown argument {word!r}; override a stage by --stage.option value, stages are "
                    f"{', '.join(names)}{meant}"
                )
            stage.options[option] = value if equals else remaining.pop(0)

    def settle(self, dry_run: bool = False) -> list[str]:
        """Put variables in place, also those that images or a budget decide; return lines on these.

        Raises:
            FlowlitError: if one has no value, or names no file that is there.
        """
        variables, facts = from_images(self.variables, self.files[0], dry_run)
        self.root = root_in_place(self.root, variables, self.files[0])
        self.table = in_place(self.table, variables)
        settle(self.stages, variables, self.files)
        lines = [facts] if facts else []
        minutes = variables.get("minutes")
        if self.budget is not None and minutes is not None:
            trust = self.trust or check_trust(self)
            counts, line = counted(self.budget, minutes, self.stages, self.root, dry_run, trust)
            settle(self.stages, variables | counts, self.files)
            lines.append(line)
        return lines

    @property
    def written(self) -> list[Path]:
        return [stage.folder(self.root) for stage in self.stages]

    def plans(self) -> list[Plan]:
        """Decide about every stage."""
        plans: dict[str, Plan] = {}
        stamps = Stamps(self.root)
        for stage in self.stages:
            upstream = {name: plans[name] for name in stage.needs}
            plans[stage.name] = decide(stage, self.root, self.written, upstream, stamps)
        return list(plans.values())

    def check(self, plans: Sequence[Plan]) -> None:
        """Refuse to begin if any stage that is to run lacks an input.

        Raises:
            FlowlitError: naming all that are missing.
        """
        if missing := missing_inputs(plans, self.files[0]):
            raise FlowlitError(missing)

    def run(self, plan: Plan) -> None:
        """Carry out one stage.

        Raises:
            FlowlitError: if its process fails.
        """
        prepare(plan, self.root)
        stage = plan.stage
        folder = plan.stage.folder(self.root)
        before = read_state(folder)
        if plan.action == "done":
            if before is not None and None in (before.get("inputs"), before.get("contents")):
                contents = Stamps(self.root).contents(plan.inputs)
                write_state(folder, before | {"inputs": plan.inputs, "contents": contents})
            return
        spent = before["seconds"] if before and not before["done"] else 0.0
        words = stage.arguments(self.root)
        state: dict[str, Any] = {"key": plan.key, "done": False, "seconds": spent, "result": None}
        state |= {"inputs": plan.inputs, "content": plan.content, "words": words}
        state |= {"contents": Stamps(self.root).contents(plan.inputs)}
        write_state(folder, state)
        if stage.command == "fit" and plan.action == "resume":
            words = [*words, "--resume", "auto"]
        print(f"\n── {stage.name}: flowlit {' '.join(words)}", flush=True)
        uncertain = stage.uncertain(self.root, self.written)
        start = time.monotonic()
        try:
            code = run_child([sys.executable, "-m", "flowlit", *words], environment(self.trust))
        finally:
            stamps = Stamps(self.root)
            state["rewritten"] = [
                name for name in uncertain if stamps.stamp(Path(name)) != plan.inputs.get(name, GONE)
            ]
            state["seconds"] = round(spent + time.monotonic() - start, 1)
            write_state(folder, state)
        check_end(stage, code, self.root / stage.writes)
        result = measured(stage, self.root / stage.writes)
        write_state(folder, state | {"done": True, "result": result})


def missing_inputs(plans: Sequence[Plan], recipe: str) -> str:
    """Return which inputs the stages that are to run lack, and how to mend it; "" if none."""
    missing = [
        f"stage {plan.stage.name} reads {', '.join(plan.missing)}"
        for plan in plans
        if plan.missing and plan.action != "done"
    ]
    mend = f"put it there, or name another{stated_needs(recipe)}"
    return f"{'; '.join(missing)}: no such file or folder; {mend}" if missing else ""


def prepare(plan: Plan, root: Path) -> None:
    """Make the stage's folder hold what belongs to its key, putting aside what does not."""
    folder = plan.stage.folder(root)
    state = read_state(folder)
    if state is not None and state["key"] != plan.key:
        move(folder, stale(plan.stage, root, state["key"]))
    aside = stale(plan.stage, root, plan.key)
    if not folder.exists() and aside.exists():
        move(aside, folder)


def check_trust(recipe: Recipe) -> bool:
    """Return whether a recipe and its files are trusted.

    Raises:
        FlowlitError: if they are not, and name a class of another package.
    """
    if trusted([*recipe.files, *(file for stage in recipe.stages for file in stage.configs)]):
        return True
    for stage in recipe.stages:
        check_class_paths(stage.configuration(recipe.root), f"{recipe.files[0]}: stage {stage.name}")
    return False


def check_end(stage: Stage, code: int, result: Path) -> None:
    """Refuse to go on after a stage that failed, or that did not write its result."""
    if code != 0:
        raise FlowlitError(
            f"stage {stage.name} failed with exit code {code}; mend it and run the same pipeline again"
        )
    if not result.exists():
        raise FlowlitError(f"stage {stage.name} ended without writing {result}; check `writes` in the recipe")
