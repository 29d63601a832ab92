"""Checkpoint files that are complete or absent, read as plain data; and the newest of them that is good."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import CheckpointIO, TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_info

from .._support.files import write_atomically
from ..errors import FlowlitError
from ..networks.checkpoints.newest import newest_good
from ..networks.checkpoints.read import read_checkpoint
from ..networks.checkpoints.tensors import hash_parts
from .lightning import restore_only_named

OF_WORKERS = ".temp.ckpt"
"""By a file with this name Lightning hands the weights of forked processes back; it is no checkpoint."""


class AtomicIO(TorchCheckpointIO):
    """Lightning's way of writing checkpoints, but synced to the disk before a file takes its name.

    Checkpoints of flowlit's modules also say which hash their weights have, and are read if they have it.
    """

    _errors: list[str] | None = None

    @contextmanager
    def collecting_errors(self) -> Iterator[list[str]]:
        """Put errors into the list instead of raising them, so that all ranks can stop together."""
        self._errors = []
        try:
            yield self._errors
        finally:
            self._errors = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if storage_options is not None or "://" in str(path):
            return super().save_checkpoint(checkpoint, path, storage_options)
        facts = checkpoint.get("flowlit")
        if isinstance(facts, dict):
            checkpoint = {**checkpoint, "flowlit": {**facts, "sha256": hash_parts(checkpoint)}}
        buffer = io.BytesIO()  # on a full disk torch.save itself would raise an obscure RuntimeError
        torch.save(checkpoint, buffer)
        try:
            write_atomically(Path(path), lambda file: file.write(buffer.getbuffer()))
        except FlowlitError as error:
            if self._errors is None:
                raise
            self._errors.append(str(error))

    def load_checkpoint(
        self, path: Any, map_location: Any = lambda storage, _: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        if Path(path).name == OF_WORKERS:
            return super().load_checkpoint(path, map_location, weights_only)
        if weights_only is not False and "pytorch-lightning_version" not in read_checkpoint(path):
            raise FlowlitError(
                f"checkpoint {path} is none of Lightning's; expected one that flowlit fit wrote"
            )
        return super().load_checkpoint(path, map_location, weights_only)


def keep_own_checkpoints(trainer: pl.Trainer) -> None:
    """Let a trainer write and compare checkpoints by ``AtomicIO``, and restore those that are named alone."""
    restore_only_named(trainer)
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = AtomicIO()


def collecting_errors(writer: CheckpointIO) -> AbstractContextManager[list[str]]:
    """Put errors of an ``AtomicIO`` into the list; any other writer raises them at once."""
    return writer.collecting_errors() if isinstance(writer, AtomicIO) else nullcontext([])


def newest(folders: Iterable[Path], resume: bool = True) -> tuple[Path, int] | None:
    """Return the checkpoint of the highest step that is good, and its step; None if there are no checkpoints.

    Each checkpoint that is not good is reported; see ``newest_good``.
    """
    return newest_good(folders, resume, lambda line: rank_zero_info(f"flowlit: {line}"))
