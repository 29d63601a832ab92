"""``flowlit doctor`` of a recipe: all of its stages, in one table.

Stages read what earlier ones write. Where that is not there yet, something stands in for it, in a folder that
is removed at the end; nothing is written into the recipe's own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from ..._support.files import existing
from ..._support.formatting import duration, size
from ...errors import FlowlitError
from ..pipeline.plan import Plan
from ..pipeline.recipe import Recipe, check_trust
from .checks.resources import DAYS, free_space
from .examine import ORDER, refuse
from .files import check_writable
from .probe import quiet
from .report import summarise
from .stage import Looked, examined, fit_images
from .standin import stand_in
from .subject import Finding
from .table import gpu_table, stage_table

LOOKED_AT = ("fit", "couple", "validate", "test", "predict")
"""Commands whose stages are looked at."""

STOOD_IN_FOR = ("fit", "couple")
"""Those of them whose results something stands in for, if they are not there."""

UNTRAINED = "times are those of networks with first weights: adaptive solvers need longer for trained ones"


def recipe_command(gpus: tuple[str, ...]) -> Callable[..., Iterator[str]]:
    """Return the function of the command, with estimates for GPUs."""

    def doctor(*overrides: str, config: str, root: str = "", trust: bool = False) -> Iterator[str]:
        """Look at all stages of a recipe: what they do, need and take, and what is missing.

        An option of a stage is overridden by --stage.option value, a variable by --vars.name value.

        Args:
            overrides: options of stages, each with its value
            config: the recipe, e.g. experiments/recipes/slimflow_digits.yaml
            root: folder for all results; the recipe's own by default
            trust: build classes of your own, too
        """
        recipe = Recipe.read(config, root, overrides)
        yield from recipe.settle(dry_run=True)
        trusted = trust or check_trust(recipe)
        with TemporaryDirectory(prefix="flowlit-doctor-") as folder:
            examination = Examination(recipe, Path(folder).resolve(), gpus, trusted)
            examination.run()
        yield examination.text()
        examination.check()

    return doctor


@dataclass
class Examination:
    """Stages of a recipe that are looked at, one after the other."""

    recipe: Recipe
    folder: Path
    """Of what stands in for results that are not there yet."""
    gpus: tuple[str, ...]
    trust: bool
    looked: list[Looked] = field(default_factory=list)
    findings: list[tuple[str, Finding]] = field(default_factory=list)
    """Each with the name of its stage; '' stands for the recipe."""

    def run(self) -> None:
        """Look at all stages, and at the whole."""
        plans = self.recipe.plans()
        self.note("", self.of_the_inputs(plans))
        self.link_others()
        with quiet():
            for plan in plans:
                self.looked.append(self.look(plan))
        self.note("", self.of_the_whole())

    def note(self, name: str, findings: Iterator[Finding] | list[Finding]) -> None:
        """Add findings of a stage, with the recipe's folder in place of the one that stands in for it."""
        for finding in findings:
            texts = (text.replace(str(self.folder), str(self.recipe.root)) for text in finding[1:])
            self.findings.append((name, Finding(finding.level, *texts)))

    def link_others(self) -> None:
        """Link what is in the recipe's folder and no stage writes, beside what stands in for results."""
        own = {path.name for path in self.recipe.written}
        others = self.recipe.root.iterdir() if self.recipe.root.is_dir() else []
        for path in others:
            if path.name not in own and not path.name.startswith("."):
                (self.folder / path.name).symlink_to(path.absolute())

    def look(self, plan: Plan) -> Looked:
        """Look at a stage, and leave what stands in for its result."""
        stage = plan.stage
        if plan.action == "done":
            (self.folder / stage.folder(Path())).symlink_to(stage.folder(self.recipe.root).absolute())
            return Looked(plan, f"is done, {plan.reason}")
        print(f"flowlit: looking at {stage.name}", file=sys.stderr, flush=True)
        if stage.command not in (*LOOKED_AT, "images"):
            return Looked(plan, f"not looked at: flowlit {stage.command}")
        try:
            if stage.command == "images":
                return Looked(plan, fit_images(stage, self.folder))
            subject, patient = examined(stage, self.folder, self.recipe.root, self.gpus, self.trust)
        except FlowlitError as error:
            return self.without(plan, [Finding("problem", str(error))])
        problems = [finding for finding in subject.findings if finding.level == "problem"]
        if any(self.lacking(finding) for finding in problems):
            return self.without(plan, problems)
        self.note(stage.name, subject.findings)
        if subject.trains and subject.measured.step is None:  # there is nothing to train on, or it failed
            return Looked(plan, "not looked at: see below")
        needed = any(stage.name in later.needs for later in self.recipe.stages)
        if needed and stage.command in STOOD_IN_FOR:
            with redirect_stderr(StringIO()):  # bars
                stand_in(subject, patient, self.folder / stage.writes)
        return Looked(plan, "", subject)

    def without(self, plan: Plan, problems: list[Finding]) -> Looked:
        """Note why a stage could not be looked at: an earlier one's result is not there, or an error."""
        names = {name for finding in problems for name in self.lacking(finding)}
        self.note(plan.stage.name, [finding for finding in problems if not self.lacking(finding)])
        waits = f"it reads what {' and '.join(sorted(names))} makes" if names else "see below"
        return Looked(plan, f"not looked at: {waits}")

    def lacking(self, finding: Finding) -> list[str]:
        """Return the stages before whose results a problem names, and nothing stands in for."""
        return [
            looked.name
            for looked in self.looked
            if str(self.folder / looked.plan.stage.folder(Path())) in finding.what
            and not (self.folder / looked.plan.stage.writes).exists()
        ]

    def of_the_inputs(self, plans: list[Plan]) -> Iterator[Finding]:
        """Yield a problem if inputs are missing that no stage makes, or nothing can be written."""
        try:
            check_writable(self.recipe.root)
            self.recipe.check(plans)
        except FlowlitError as error:
            yield Finding("problem", str(error))

    def of_the_whole(self) -> Iterator[Finding]:
        """Yield findings on the sums over all stages."""
        seconds = sum(looked.seconds for looked in self.looked)
        if seconds > DAYS * 86_400 and max(looked.seconds for looked in self.looked) <= DAYS * 86_400:
            mend = "a GPU (--for a10g,4090,h100 estimates them), smaller networks, fewer steps"
            yield Finding("warning", f"all stages together take {duration(seconds)} on this machine", mend)
        needed = sum(looked.disk for looked in self.looked)
        free = free_space(self.recipe.root)
        if needed > free:
            what = f"all results together need {size(needed)}, and {size(free)} are free"
            yield Finding(
                "problem", f"{what} in {existing(self.recipe.root)}", "free some, or choose another --root"
            )

    def text(self) -> str:
        """Return the tables and the findings."""
        lines = [*stage_table(self.looked), ""]
        if any(looked.subject is not None for looked in self.looked):
            lines += [UNTRAINED, ""]
        if self.gpus:
            lines += [*gpu_table(self.looked, self.gpus), ""]
        lines += [summarise(finding) for finding in self.listed()] or ["nothing is wrong"]
        return "\n".join(lines)

    def listed(self) -> list[Finding]:
        """Return the findings, each once, with the names of its stages."""
        names: dict[Finding, list[str]] = {}
        for name, finding in sorted(self.findings, key=lambda pair: ORDER.index(pair[1].level)):
            names.setdefault(finding, []).append(name)
        return [of_stages(finding, stages) for finding, stages in names.items()]

    def check(self) -> None:
        """Refuse a recipe that has problems.

        Raises:
            FlowlitError: naming their number, and the first.
        """
        refuse(self.listed())


def of_stages(finding: Finding, names: list[str]) -> Finding:
    """Return a finding with the names of its stages before it."""
    return finding._replace(what=f"{', '.join(names)}: {finding.what}".removeprefix(": "))
