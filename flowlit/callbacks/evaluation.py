"""What callbacks that look at generated images share."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback


class Evaluation(Callback):
    """Follow a validation or test run: ``begin``, ``look`` at every batch, ``end``. Silent in the sanity check.

    The module's step returns {"noise": Noise, "solutions": {solver: Solution}}.
    """

    def begin(self, trainer: pl.Trainer, module: Any) -> None:
        """Before the first batch."""

    def look(self, trainer: pl.Trainer, module: Any, outputs: Any, batch_idx: int) -> None:
        """After a batch was generated."""

    def end(self, trainer: pl.Trainer, module: Any) -> None:
        """After the last batch, while one may still log."""

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.begin(trainer, pl_module)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not trainer.sanity_checking:
            self.look(trainer, pl_module, outputs, batch_idx)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.end(trainer, pl_module)

    on_test_start = on_validation_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end
