"""The checkpoints that ``--ckpt_path`` and ``--resume auto`` mean."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

from ..._engine.checkpoint_files import newest
from ..._engine.lightning import checkpoint_folder, has_fixed_folder
from ...errors import FlowlitError
from ...networks.checkpoints.archive import check_archive, is_archive, outline
from ...networks.checkpoints.locate import files_in, locate
from ...networks.checkpoints.read import read_checkpoint

BY_NAME = ("last", "best")
"""Names that are looked up in the run's folder."""


def check_named(name: str, resume: bool, plain: bool = True) -> str:
    """Return the path of the checkpoint that ``--ckpt_path`` names, after it has been read and compared.

    Args:
        name: path of a file, file://, or one of ``BY_NAME``, which are looked up when the trainer is there.
        resume: a run is to go on from it.
        plain: it is read as plain data; otherwise its checksums alone are compared.

    Raises:
        FlowlitError: if it cannot be used.
    """
    if name in BY_NAME:
        return name
    if name.partition(":")[0] in ("hpc", "registry"):
        raise FlowlitError(
            f"--ckpt_path {name}: flowlit has no such checkpoints; name a file, or {' or '.join(BY_NAME)}"
        )
    path = locate(name)
    if plain:
        read_checkpoint(path, resume)
    elif is_archive(path):
        check_archive(path)
    return str(path)


def look_up(trainer: pl.Trainer, name: str, resume: bool) -> str | None:
    """Return the checkpoint in the run's folder that is the last, or the best; None if a fit has none yet.

    Raises:
        FlowlitError: if there is none, naming those that are there.
    """
    folders = run_folders(trainer)
    latest = newest(folders, resume)
    if latest is None and resume and name == "last":
        rank_zero_info("flowlit: no checkpoint yet, starting")
        return None
    if latest is None:
        where = ", ".join(map(str, sorted(folders))) or "this run, which keeps none"
        raise FlowlitError(f"--ckpt_path {name}: there are no checkpoints in {where}; name a file")
    if name == "last":
        return str(latest[0])
    candidates = {path for key in _best(latest[0]) for path in _places(key, folders) if os.path.isfile(path)}
    if len(candidates) != 1:
        which = (
            "several best ones" if candidates else "no best one, for want of a ModelCheckpoint with a monitor"
        )
        files = "; ".join(f"{folder} has {files_in(folder)}" for folder in sorted(folders))
        raise FlowlitError(f"--ckpt_path best: the run has {which}; name a file: {files}")
    return check_named(str(*candidates), resume)


def _best(checkpoint: Path) -> set[Path]:
    """Return the best checkpoints that ``ModelCheckpoint`` callbacks had kept when one was written."""
    content = outline(checkpoint)
    states = content.get("callbacks", {}).values() if isinstance(content, dict) else ()
    paths = {state.get("best_model_path") for state in states if isinstance(state, dict)}
    return {Path(path) for path in paths if isinstance(path, str) and path}


def _places(file: Path, folders: Iterable[Path]) -> set[Path]:
    """Return where a file of a run is: in its folders, or else, if its path is whole, where that was."""
    if file.parent in folders and os.path.isfile(file):
        return {file}
    inside = {folder / file.name for folder in folders}
    elsewhere = {file} if file.is_absolute() else set()
    return {path for path in inside if os.path.isfile(path)} or elsewhere


def check_fixed_folder(trainer: pl.Trainer) -> None:
    """Refuse to go on with a run that has another folder each time; before its folder is looked up."""
    if not _has_fixed_folder(trainer):
        raise FlowlitError(
            "--resume auto: this run gets another folder each time (version_0, version_1, …); give its "
            "logger one for good, e.g. --trainer.logger.version '', or the checkpoint (--ckpt_path)"
        )


def checkpoint_to_resume(trainer: pl.Trainer) -> str | None:
    """Return the newest good checkpoint of a run; None if there is none yet.

    Raises:
        FlowlitError: if the run has no checkpoints.
    """
    folders = run_folders(trainer)
    if not folders:
        raise FlowlitError(
            "--resume auto: this run keeps no checkpoints; drop trainer.enable_checkpointing: false"
        )
    latest = newest(folders)
    if latest is None:
        rank_zero_info("flowlit: no checkpoint yet, starting")
        return None
    rank_zero_info(f"flowlit: going on from {latest[0]}, step {latest[1]}")
    return str(latest[0])


def fixed_folders(trainer: pl.Trainer) -> set[Path]:
    """Return the folders of a run's checkpoints; none if they are others each time."""
    return run_folders(trainer) if _has_fixed_folder(trainer) else set()


def _has_fixed_folder(trainer: pl.Trainer) -> bool:
    return all(has_fixed_folder(logger) for logger in trainer.loggers)


def run_folders(trainer: pl.Trainer) -> set[Path]:
    """Return the folders that the run's checkpoint callbacks write into."""
    callbacks = [
        callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)
    ]
    return {checkpoint_folder(trainer, callback) for callback in callbacks}
