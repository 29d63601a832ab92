"""Checkpoints to go on from."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint


class LastCheckpoint(ModelCheckpoint):
    """Keep ``checkpoints/last.ckpt``: replaced every so many steps, and at the end of training wherever that is.

    Written atomically, so a run killed at any moment leaves a whole one. To keep the best or several, add Lightning's own
    ``ModelCheckpoint`` (whose ``save_last`` does not save the last step unless it is a multiple).

    Args:
        every_n_train_steps: optimizer steps between two saves; what a kill costs at most.
    """

    def __init__(self, every_n_train_steps: int = 1000):
        # without the counter, or a second run in the same folder would leave the first one's last.ckpt and write last-v1.ckpt
        super().__init__(save_last=True, save_top_k=0, every_n_train_steps=every_n_train_steps, enable_version_counter=False)
        self.every = every_n_train_steps

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step % self.every and not self._should_skip_saving_checkpoint(trainer):
            trainer.save_checkpoint(Path(str(self.dirpath)) / "last.ckpt", weights_only=False)  # the whole state
