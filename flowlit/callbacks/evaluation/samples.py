"""Grids of the images that each solver makes of the same noise."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from ...ranges import PositiveInt
from .grids import FirstImages
from .pictures import show


class Samples(FirstImages):
    """Log a grid of the first ``num`` images of validation for every solver, always from the same noise.

    As ``samples/<solver>`` in the loggers, and ``samples/<solver>.png`` in the run's folder; small images
    are enlarged.

    Args:
        num: how many images.
        columns: of the grid.
    """

    def __init__(self, num: PositiveInt = 64, columns: PositiveInt = 16):
        super().__init__(num)
        self.columns = columns

    def end(self, trainer: pl.Trainer, module: Any) -> None:
        for name, images in self.gather().items():
            show(trainer, f"samples/{name}", images, self.columns)
