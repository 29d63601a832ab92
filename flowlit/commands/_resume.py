"""The checkpoint that ``--resume auto`` goes on from."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

from .._engine.checkpoint_files import newest
from .._engine.lightning import checkpoint_folder, has_fixed_folder
from ..callbacks.training.checkpoint import LAST
from ..errors import FlowlitError


def checkpoint_to_resume(trainer: pl.Trainer) -> str | None:
    """Return the newest good checkpoint of a run; None if there is none yet.

    Raises:
        FlowlitError: if the run has another folder each time, or no checkpoints.
    """
    if not _has_fixed_folder(trainer):
        raise FlowlitError(
            "--resume auto: this run gets another folder each time (version_0, version_1, …); give its "
            "logger one for good, e.g. --trainer.logger.version '', or the checkpoint (--ckpt_path)"
        )
    folders = _folders(trainer)
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


def announce_replacement(trainer: pl.Trainer) -> None:
    """Log that a run replaces the last checkpoint of an earlier one, if there is one."""
    folders = _folders(trainer) if _has_fixed_folder(trainer) else set()
    earlier = next((folder / LAST for folder in folders if (folder / LAST).exists()), None)
    if earlier is not None:
        rank_zero_info(
            f"flowlit: starting afresh; {earlier} of an earlier run will be replaced, its curves stay "
            "(--resume auto goes on)"
        )


def _has_fixed_folder(trainer: pl.Trainer) -> bool:
    return all(has_fixed_folder(logger) for logger in trainer.loggers)


def _folders(trainer: pl.Trainer) -> set[Path]:
    """Return the folders that the run's checkpoint callbacks write into."""
    callbacks = [
        callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)
    ]
    return {checkpoint_folder(trainer, callback) for callback in callbacks}
