"""Show what each solver makes of the same noise."""

from __future__ import annotations

from operator import itemgetter
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torchvision.utils import make_grid, save_image

from .evaluation import Evaluation


class Samples(Evaluation):
    """Log a grid of the first ``num`` images of validation for every solver, always from the same noise.

    As ``samples/<solver>`` in TensorBoard, and ``samples/<solver>.png`` in the run's folder.

    Args:
        num: how many images.
        columns: of the grid.
    """

    def __init__(self, num: int = 64, columns: int = 16):
        self.num, self.columns = num, columns
        self._images: dict[str, list[tuple[int, Tensor]]] = {}

    def begin(self, trainer: pl.Trainer, module: Any) -> None:
        self._images = {}

    def look(self, trainer: pl.Trainer, module: Any, outputs: Any, batch_idx: int) -> None:
        for name, solution in outputs["solutions"].items():
            kept = self._images.setdefault(name, [])
            if len(kept) < self.num:
                kept += zip(outputs["noise"].index.tolist(), module.codec.decode(solution.x1).cpu(), strict=True)

    def end(self, trainer: pl.Trainer, module: Any) -> None:
        log_dir = trainer.log_dir  # asked on every rank: it is broadcast
        images = _gather(self._images)
        if not trainer.is_global_zero:
            return
        for name, kept in images.items():
            first = [image for _, image in sorted(kept, key=itemgetter(0))[: self.num]]
            grid = make_grid(torch.stack(first).float() / 255, nrow=self.columns, padding=1, pad_value=0.5)
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_image(f"samples/{name}", grid, trainer.global_step)
            if log_dir is not None and not trainer.fast_dev_run:  # type: ignore[attr-defined]
                folder = Path(log_dir) / "samples"
                folder.mkdir(parents=True, exist_ok=True)
                save_image(grid, folder / f"{name}.png")


def _gather(images: dict[str, list[tuple[int, Tensor]]]) -> dict[str, list[tuple[int, Tensor]]]:
    """Bring the images of all ranks together, so that the grid does not depend on their number."""
    if not (dist.is_available() and dist.is_initialized()):
        return images
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, images)
    names = sorted({name for part in parts for name in part})
    return {name: [pair for part in parts for pair in part.get(name, [])] for name in names}
