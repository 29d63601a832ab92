"""Checkpoint files that are complete or absent, read as plain data; and the newest of them that is good."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO, TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_info

from .._support.files import write_atomically
from ..errors import FlowlitError
from ..networks.checkpoints.read import read_checkpoint


class AtomicIO(TorchCheckpointIO):
    """Lightning's way of writing checkpoints, but synced to the disk before a file takes its name."""

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
        buffer = io.BytesIO()  # on a full disk torch.save itself would raise an obscure RuntimeError
        torch.save(checkpoint, buffer)
        try:
            write_atomically(Path(path), lambda file: file.write(buffer.getbuffer()))
        except FlowlitError as error:
            if self._errors is None:
                raise
            self._errors.append(str(error))


def collecting_errors(writer: CheckpointIO) -> AbstractContextManager[list[str]]:
    """Put errors of an ``AtomicIO`` into the list; any other writer raises them at once."""
    return writer.collecting_errors() if isinstance(writer, AtomicIO) else nullcontext([])


def check_whole(path: Path) -> dict[str, Any]:
    """Return a checkpoint that training can go on from, after its checksums have been compared.

    Raises:
        FlowlitError: if it is torn, corrupt, unsafe, or has weights only.
    """
    checkpoint = read_checkpoint(path)
    try:
        with zipfile.ZipFile(path) as archive:
            corrupt = archive.testzip()
    except Exception as error:  # whatever zipfile makes of damaged names, methods and offsets
        corrupt = str(error) or type(error).__name__
    if corrupt:
        raise FlowlitError(
            f"checkpoint {path} is corrupt ({corrupt}); use an older one, --resume auto finds it"
        )
    if "loops" not in checkpoint or "optimizer_states" not in checkpoint:
        raise FlowlitError(
            f"checkpoint {path} holds weights only, so no run can go on from it; start one from its weights "
            "(network: flowlit.networks.pretrained)"
        )
    return checkpoint


def newest(folders: Iterable[Path]) -> tuple[Path, int] | None:
    """Return the good checkpoint that was written last, and its step; None if there are no checkpoints.

    Each one that is not good is reported.

    Raises:
        FlowlitError: if there are checkpoints, but none is good: to begin afresh would be no resuming.
    """
    present = [path for folder in folders if folder.is_dir() for path in folder.glob("*.ckpt")]
    files = {path for path in present if path.is_file()}
    refused = []
    for path in sorted(files, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        try:
            return path, check_whole(path)["global_step"]
        except (FlowlitError, OSError) as error:
            refused.append(str(error))
            more = "; trying the one before it" if len(refused) < len(files) else ""
            rank_zero_info(f"flowlit: {error}{more}")
    if refused:
        raise FlowlitError(
            f"no good checkpoint among {len(refused)}: {refused[0]}. Remove them to start afresh"
        )
    return None
