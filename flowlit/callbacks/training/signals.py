"""A checkpoint and an orderly end on a signal."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info

from ..._engine.lightning import is_accumulating, optimizer_steps
from ..._engine.signals import SignalHandler
from ...errors import Stopped
from ...ranges import Checked
from .checkpoint import LAST, LastCheckpoint, keeper_of


class SaveOnSignal(Checked, Callback):
    """On SIGTERM, SIGINT or SIGUSR1 finish the optimizer step, save, and leave with exit code 143, 130 or
    138.

    On SIGUSR1, which SLURM sends before time is up (``#SBATCH --signal=USR1@120``), the job is put back into
    the queue. During a validation nothing needs to be saved: last.ckpt was, just before it. A second signal
    ends at once. ``flowlit fit`` always has this callback, and ``LastCheckpoint``; it goes on with ``--resume
    auto``. Other commands end at once.
    """

    def __init__(self) -> None:
        self._handler = SignalHandler()
        self._agreed = self._shared = 0
        self._keeper: LastCheckpoint | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            self._agreed = 0
            self._keeper = keeper_of(trainer)
            self._handler.open()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._handler.open()  # Lightning has put its own handlers before ours by now

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if is_accumulating(trainer):
            return
        self._agreed = self._received_anywhere(trainer)
        if self._agreed and self._keeper is not None:
            self._keeper.write(trainer)

    def _received_anywhere(self, trainer: pl.Trainer) -> int:
        """Return on every rank the signal that any rank received: they save after the same step."""
        if trainer.world_size == 1:
            return self._handler.received
        received = torch.tensor(int(self._handler.received), device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(received, reduce_op="max"))

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._leave(trainer, self._agreed)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit":
            self._leave(trainer, self._agreed)
            batches = torch.tensor(float(sum(trainer.num_val_batches)), device=trainer.strategy.root_device)
            self._shared = int(trainer.strategy.reduce(batches, reduce_op="min"))
        else:
            self._handler.stop_listening()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._handler.stop_listening()

    on_predict_start = on_test_start

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        saved = trainer.state.fn == "fit" and (trainer.sanity_checking or not is_accumulating(trainer))
        if saved and batch_idx < self._shared:  # the last one of a rank may be without a counterpart
            self._leave(trainer, self._received_anywhere(trainer))

    def _leave(self, trainer: pl.Trainer, signum: int) -> None:
        if not signum:
            return
        where = "nothing is saved, for want of flowlit.callbacks.LastCheckpoint"
        if self._keeper is not None:
            self._keeper.commit(trainer)
            where = f"{self._keeper.folder / LAST} has everything; go on with --resume auto"
        rank_zero_info(f"\nflowlit: stopped at step {optimizer_steps(trainer)}: {where}")
        if signum == signal.SIGUSR1 and trainer.is_global_zero:
            requeue()
        raise Stopped(signum)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._handler.close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self._handler.close()


def requeue() -> None:
    """Put this job back into SLURM's queue; without SLURM, report that there is none."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    job = f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}" if array else os.environ.get("SLURM_JOB_ID", "")
    scontrol = shutil.which("scontrol")
    if not re.fullmatch(r"\d+(_\d+)?", job) or scontrol is None:
        rank_zero_info("flowlit: this is no SLURM job, so nothing was put back into a queue")
        return
    code = subprocess.run([scontrol, "requeue", job], check=False).returncode
    failure = f"scontrol requeue {job} failed ({code})"
    rank_zero_info(f"flowlit: {failure if code else f'SLURM job {job} is requeued'}")
