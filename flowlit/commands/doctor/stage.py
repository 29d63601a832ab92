"""One stage of a recipe: its command line is parsed, and what it describes is examined."""

from __future__ import annotations

import os
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile, is_zipfile

from omegaconf.errors import OmegaConfBaseException

from ...errors import FlowlitError
from ...modules import FlowDataModule
from .. import lightning
from .. import run as run_command
from .._line.errors import described
from .._line.references import leads_nowhere
from ..couple import CoupleOptions
from ..pipeline.plan import Plan
from ..pipeline.stage import Stage
from .checks.resources import files_kept
from .examine import examine_subject, subject_of
from .subject import Subject
from .times import seconds_of

MOST_FILES = 20_000
"""Images that are fitted, at most, so that the stages after that can be looked at."""


class Looked(NamedTuple):
    """A stage that was looked at."""

    plan: Plan
    what: str
    """What it does, if nothing is known of it but this."""
    subject: Subject | None = None

    @property
    def name(self) -> str:
        return self.plan.stage.name

    @property
    def seconds(self) -> float:
        """Seconds of the stage on this machine."""
        return 0.0 if self.subject is None else seconds_of(self.subject)

    @property
    def memory(self) -> int | None:
        """Bytes of a device that a training step needs at least."""
        return None if self.subject is None else self.subject.measured.memory(self.subject.share)

    @property
    def disk(self) -> int:
        """Bytes of the checkpoints or pairs that the stage writes."""
        s = self.subject
        if s is None:
            return 0
        if s.options is not None:
            return s.missing * s.pair_bytes
        return files_kept(s) * (s.measured.checkpoint or 0)


def examined(
    stage: Stage, folder: Path, root: Path, gpus: tuple[str, ...], trust: bool
) -> tuple[Subject, Any]:
    """Return what a stage would run, examined, and the copy of its model.

    Args:
        stage: of a recipe.
        folder: in place of the recipe's root, to read from.
        root: of the recipe, which is written to.
        gpus: for which there are estimates, too.
        trust: build classes of one's own, too.

    Raises:
        FlowlitError: if the command would refuse what it is given.
    """
    results: list[tuple[Subject, Any]] = []

    class StageCLI(lightning.FlowCLI):
        def doctor(
            self, model: Any, datamodule: Any = None, ckpt_path: str | None = None, **given: Any
        ) -> None:
            options = as_couple(given) if stage.command == "couple" else None
            subject = subject_of(self.trainer, model, datamodule, options, gpus)
            if stage.command not in ("fit", "couple"):
                subject.data = generating(subject.data, stage.command)
            subject.writes = stage.folder(root)
            results.append((subject, examine_subject(subject, ckpt_path)))

    os.environ.pop("PL_GLOBAL_SEED", None)  # of the stage before
    printed = StringIO()
    words = ["doctor", *stage.arguments(folder)[1:], *["--trust"] * trust]
    try:
        with redirect_stderr(printed):
            StageCLI.run(words)
    except SystemExit as end:
        message = printed.getvalue().rpartition("error: ")[2].partition("\nsee ")[0]
        raise FlowlitError(" ".join(message.split()) or "it was called wrongly") from end
    except OmegaConfBaseException as error:
        reason = leads_nowhere(str(error), words)
        raise FlowlitError(f"interpolation in the configuration: {reason}") from error
    except Exception as error:  # what goes wrong here goes wrong in the stage, too
        raise FlowlitError(described(error)) from error
    return results[0]


def as_couple(given: dict[str, Any]) -> CoupleOptions:
    """Return the options of couple among the arguments of doctor."""
    others = {name: value for name, value in given.items() if value is not None and name != "weights_only"}
    return CoupleOptions(**others)


def generating(data: FlowDataModule, command: str) -> FlowDataModule:
    """Return the data of a command that generates: nothing to train on, and the noise of ``test`` for it."""
    data.coupling = None
    if command == "test" and data.noise is not None:
        data.noise = data.evaluated("test")
    return data


def fit_images(stage: Stage, folder: Path) -> str:
    """Carry out a stage that fits images, into the folder, unless they are many; return what it does.

    Raises:
        FlowlitError: if the stage would fail.
    """
    number = files_in(Path(str(stage.configuration(folder).get("source"))))
    if number > MOST_FILES:
        return f"fits {number:,} files, which takes a while: not looked at"
    printed = StringIO()
    with redirect_stdout(printed), redirect_stderr(StringIO()):
        run_command(stage.command, stage.arguments(folder)[1:])
    _, _, fitted = printed.getvalue().partition("\n")[0].partition(": ")
    return f"fits {fitted}"


def files_in(source: Path) -> int:
    """Return the number of files in a folder or zip; 0 if it is neither."""
    if source.is_dir():
        return sum(len(files) for _, _, files in os.walk(source))
    if not is_zipfile(source):
        return 0
    with ZipFile(source) as archive:
        return len(archive.namelist())
