"""Grids of the images that each solver makes of the same noise."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from .base import Evaluation
from .grids import FirstImages, show


class Samples(Evaluation):
    """Log a grid of the first ``num`` images of validation for every solver, always from the same noise.

    As ``samples/<solver>`` in TensorBoard, and ``samples/<solver>.png`` in the run's folder.

    Args:
        num: how many images.
        columns: of the grid.
    """

    def __init__(self, num: int = 64, columns: int = 16):
        self.num = num
        self.columns = columns
        self._first = FirstImages(num)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.watch(trainer, self.num)

    def begin(self, trainer: pl.Trainer, module: Any) -> None:
        self._first = FirstImages(self.num)

    def look(self, trainer: pl.Trainer, module: Any, outputs: Any, batch_idx: int) -> None:
        self._first.keep(module, outputs["noise"], outputs["solutions"])

    def end(self, trainer: pl.Trainer, module: Any) -> None:
        log_dir = trainer.log_dir  # on every rank, since Lightning broadcasts it
        images = self._first.gather()
        if trainer.is_global_zero:
            for name, first in images.items():
                show(trainer, log_dir, f"samples/{name}", first, self.columns)
