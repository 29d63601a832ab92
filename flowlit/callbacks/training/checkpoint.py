"""Checkpoints that a run goes on from."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from ..._engine.checkpoint_files import collecting_errors
from ..._engine.lightning import is_accumulating, is_validation_pending, optimizer_steps
from ..._engine.loops import clear_started_batch, mark_validation_pending, rescale_batch_counters
from ..._engine.ranks import on_rank_zero
from ..._support.files import existing
from ...errors import Diverged, FlowlitError
from ...networks.checkpoints.tensors import non_finite, parameters_of
from ...ranges import Checked, PositiveInt
from .best import misjudgements

LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"
PART = "last.ckpt.part"


class LastCheckpoint(Checked, ModelCheckpoint):
    """Keep ``checkpoints/last.ckpt``, and the one before it as ``previous.ckpt``.

    Written after the first optimizer step, every so many steps, before every validation, and at the end of
    training wherever that is. A file takes its name when it is whole, and what was logged up to its step is
    on the disk: a run killed at any moment goes on (``--resume auto``) to the same weights and the same
    logged values. To keep the best, add ``BestCheckpoint``; to keep several, Lightning's own
    ``ModelCheckpoint`` (whose ``save_last`` does not save the last step unless it is a multiple).

    Args:
        every_n_train_steps: optimizer steps between two saves; what a kill costs at most.
    """

    def __init__(self, every_n_train_steps: PositiveInt = 1000):
        super().__init__(
            save_last=True,
            save_top_k=0,
            every_n_train_steps=every_n_train_steps,
            enable_version_counter=False,
        )
        self.every = every_n_train_steps
        self._written: int | None = None
        self._steps: int | None = None
        self._awaited = False
        self.begun = False  # whether the files in the folder are of this run

    @property
    def folder(self) -> Path:
        return Path(str(self.dirpath))

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            for what, mend in misjudgements(trainer):
                rank_zero_warn(f"{what}; {mend}")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._written = None
        check_together(trainer)
        on_rank_zero(trainer, lambda: check_space(self.folder, pl_module))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stepped = not is_accumulating(trainer)
        if stepped and (
            not self.begun or optimizer_steps(trainer) % self.every == 0 or is_validation_pending(trainer)
        ):
            self.write(trainer)

    def write(self, trainer: pl.Trainer) -> None:
        """Write the state after this step, beside the last one; ``commit`` puts it in its place."""
        if self._written != optimizer_steps(trainer) and not getattr(trainer, "fast_dev_run", False):
            # ranks meet in there, and must not wait for one that left
            with collecting_errors(trainer.strategy.checkpoint_io) as errors:
                trainer.save_checkpoint(self.folder / PART, weights_only=False)
            failed = trainer.strategy.broadcast("".join(errors))
            if failed:
                raise FlowlitError(failed)
            self._written = optimizer_steps(trainer)

    def commit(self, trainer: pl.Trainer) -> None:
        """Let what was written become last.ckpt, once all that was logged before it is on the disk."""
        part = self.folder / PART
        if self._written is None:
            return
        if not trainer.is_global_zero or not part.exists():
            self.begun = True
            return
        for logger in trainer.loggers:
            logger.experiment.flush() if isinstance(logger, TensorBoardLogger) else logger.save()
        if self.begun:
            keep(self.folder / LAST, self.folder / PREVIOUS)
        else:
            (self.folder / PREVIOUS).unlink(missing_ok=True)
        os.replace(part, self.folder / LAST)
        self.begun = True

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.commit(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.commit(trainer)
            if self._awaited:
                clear_started_batch(trainer)
            self._awaited = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self._steps is not None:  # only its last validation had been missing
            trainer.fit_loop.epoch_loop.max_steps = self._steps
            self._steps = None

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pass

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._written = None  # what follows the last step's validation is worth a file of its own
        self.write(trainer)
        self.commit(trainer)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        refuse_broken(trainer, checkpoint)
        if trainer.training and is_validation_pending(trainer):
            mark_validation_pending(checkpoint["loops"]["fit_loop"])

    def state_dict(self) -> dict[str, Any]:
        return {}  # without the paths that Lightning has in it: a run may be moved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != "fit":
            return
        self.begun = True
        loop = checkpoint["loops"]["fit_loop"]
        steps = checkpoint["global_step"]
        data = checkpoint.get(type(trainer.datamodule).__qualname__, {})  # type: ignore[attr-defined]
        rescale_batch_counters(loop, data.get("accumulated", 1), trainer.accumulate_grad_batches)
        self._awaited = loop.get("validate_first", False)
        if self._awaited and steps == trainer.max_steps:  # or Lightning would find nothing left to do
            self._steps = trainer.max_steps
            trainer.fit_loop.epoch_loop.max_steps = steps + 1


def keeper_of(trainer: pl.Trainer) -> LastCheckpoint | None:
    """Return the callback that keeps the last checkpoints, if there is one."""
    callbacks = trainer.checkpoint_callbacks
    return next((callback for callback in callbacks if isinstance(callback, LastCheckpoint)), None)


def check_together(trainer: pl.Trainer) -> None:
    """Refuse to train if the processes went on from different checkpoints.

    They might where a shared disk is slow to agree.

    Raises:
        FlowlitError: on every one of them.
    """
    step = torch.tensor(float(optimizer_steps(trainer)), device=trainer.strategy.root_device)
    first, last = (int(trainer.strategy.reduce(step.clone(), reduce_op=op)) for op in ("min", "max"))
    if first != last:
        raise FlowlitError(
            f"the processes go on from different steps ({first} … {last}); start again when the disk has "
            "settled"
        )


def keep(last: Path, previous: Path) -> None:
    """Give a file a second name, which another file may have had; neither is missing at any moment."""
    if not last.exists():
        return
    spare = previous.with_suffix(".spare")
    with suppress(OSError):
        spare.unlink(missing_ok=True)
        os.link(last, spare)
        os.replace(spare, previous)
        return
    os.replace(last, previous)  # a file system without links


def refuse_broken(trainer: pl.Trainer, checkpoint: dict[str, Any]) -> None:
    """Refuse to save weights that are not finite in the place of good ones.

    Raises:
        Diverged: naming a tensor.
    """
    parameters = parameters_of(trainer.lightning_module)
    broken = non_finite(checkpoint["state_dict"], parameters)  # of sharded networks only rank 0 has it
    if broken := trainer.strategy.broadcast(broken):
        raise Diverged(
            f"step {optimizer_steps(trainer)}: {broken[0]} is not finite (and {len(broken) - 1} more), so "
            "nothing was saved. Go on from the last good checkpoint with a lower learning rate (--resume "
            "auto --model.optimizer.lr …), or let flowlit.callbacks.Rollback do that"
        )


def check_space(folder: Path, module: nn.Module, moments: int = 2) -> None:
    """Refuse to begin where three checkpoints have no room: the last two, and the one being written.

    Raises:
        FlowlitError: with the bytes that are needed.
    """
    trained = sum(p.nbytes for p in module.parameters() if p.requires_grad)
    size = sum(p.nbytes for p in module.parameters()) + moments * trained
    there = sum(f.stat().st_size for f in (folder / LAST, folder / PREVIOUS) if f.exists())
    free = shutil.disk_usage(existing(folder)).free + there
    if free < 3 * size:
        raise FlowlitError(
            f"{folder}: three checkpoints of {size / 1e6:.1f} MB have no room in the {free / 1e6:.1f} MB "
            "that are free, or taken by those that are there; free some space, or write elsewhere "
            "(--vars.root)"
        )
