"""Show what each solver makes of the same noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torchvision.utils import make_grid, save_image


class Samples(Callback):
    """Log a grid of the first ``num`` images of validation for every solver, always from the same noise.

    As ``samples/<solver>`` in TensorBoard, and ``samples/<solver>.png`` in the run's folder.

    Args:
        num: how many images.
        columns: of the grid.
    """

    def __init__(self, num: int = 64, columns: int = 16):
        self.num, self.columns = num, columns
        self._images: dict[str, list[Tensor]] = {}

    def _start(self) -> None:
        self._images = {}

    def _collect(self, pl_module: Any, outputs: Any) -> None:
        for name, solution in outputs["solutions"].items():
            kept = self._images.setdefault(name, [])
            if sum(len(x) for x in kept) < self.num:
                kept.append(pl_module.codec.decode(solution.x1).cpu())

    def _show(self, trainer: pl.Trainer) -> None:
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        for name, kept in self._images.items():
            grid = make_grid(torch.cat(kept)[: self.num].float() / 255, nrow=self.columns, padding=1, pad_value=0.5)
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_image(f"samples/{name}", grid, trainer.global_step)
            if trainer.log_dir is not None and not trainer.fast_dev_run:  # type: ignore[attr-defined]
                folder = Path(trainer.log_dir) / "samples"
                folder.mkdir(parents=True, exist_ok=True)
                save_image(grid, folder / f"{name}.png")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._collect(pl_module, outputs)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._show(trainer)

    on_test_start = on_validation_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end
