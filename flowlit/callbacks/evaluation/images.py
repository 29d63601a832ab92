"""Generated images as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import BasePredictionWriter
from torchvision.transforms.functional import to_pil_image

from ...types import Noise, Solution


class ImageWriter(BasePredictionWriter):
    """Write the images of ``flowlit predict`` as ``00000000.png``, numbered by the index of their noise.

    Args:
        folder: of the images; those that are there already are overwritten.
    """

    def __init__(self, folder: str):
        super().__init__(write_interval="batch")
        self.folder = Path(folder)

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: Any,
        prediction: tuple[Noise, Solution],
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        noise, solution = prediction
        for index, image in zip(noise.index.tolist(), pl_module.codec.decode(solution.x1).cpu(), strict=True):
            to_pil_image(image).save(self.folder / f"{index:08d}.png")
