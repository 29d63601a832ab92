"""The newest good checkpoint of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from ...errors import FlowlitError
from .archive import is_archive, outline
from .read import read_checkpoint

ORDER = ("last.ckpt", "previous.ckpt")
"""Checkpoints of equal steps, the best first; others follow by name."""


def newest_good(
    folders: Iterable[Path], resume: bool, report: Callable[[str], None]
) -> tuple[Path, int] | None:
    """Return the checkpoint of the highest step that is good, and its step; None if there are no checkpoints.

    Copies of a run need not keep the times of its files, so that these are not looked at.

    Args:
        folders: of the run.
        resume: the run is to go on from it; otherwise its weights are enough.
        report: called with a line on each checkpoint that is not good.

    Raises:
        FlowlitError: if there are checkpoints, but none is good: to begin afresh would be no resuming.
    """
    steps: dict[Path, int] = {}
    refused: dict[Path, str] = {}
    for file in sorted({file for folder in folders for file in checkpoints_in(folder)}):
        try:
            steps[file] = step_of(file)
        except (FlowlitError, OSError) as error:
            refused[file] = str(error)
    for file in sorted(steps, key=lambda file: (-steps[file], *_order(file))):
        try:
            read_checkpoint(file, resume)
        except (FlowlitError, OSError) as error:
            refused[file] = str(error)
            continue
        for why in refused.values():
            report(f"{why}; trying the one before it")
        return file, steps[file]
    if refused:
        first = refused[min(refused, key=_order)]
        mend = ". Remove them to start afresh" if resume else ""
        raise FlowlitError(f"no good checkpoint among {len(refused)}: {first}{mend}")
    return None


def step_of(file: Path) -> int:
    """Return the step of a checkpoint, of which little is read.

    Raises:
        FlowlitError: if it is torn, or has none.
    """
    content = outline(file) if is_archive(file) else read_checkpoint(file)
    step = content.get("global_step") if isinstance(content, dict) else None
    if type(step) is not int:
        raise FlowlitError(f"checkpoint {file}: its global_step is {step!r}, expected a whole number")
    return step


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder of a run; those that SLURM made Lightning write are of any run."""
    files = folder.glob("*.ckpt") if folder.is_dir() else ()
    return [file for file in files if file.is_file() and not file.name.startswith("hpc_ckpt_")]


def _order(file: Path) -> tuple[int, str]:
    return ORDER.index(file.name) if file.name in ORDER else len(ORDER), str(file)
