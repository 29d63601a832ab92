"""Pictures for loggers that take them, and for the run's folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from ..._support.files import write_atomically, write_figure
from ...generators.pictures import enlarged

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def boards(trainer: pl.Trainer) -> list[Any]:
    """Return the TensorBoard writers of a trainer, on rank 0."""
    loggers = trainer.loggers if trainer.is_global_zero else []
    return [logger.experiment for logger in loggers if isinstance(logger, TensorBoardLogger)]


def file_for(trainer: pl.Trainer, name: str) -> Path | None:
    """Return the file of a name in the run's folder; None where a run leaves none, and on ranks beside 0.

    Every rank must call it, since Lightning broadcasts the folder.
    """
    log_dir = trainer.log_dir
    if log_dir is None or not trainer.loggers or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return None
    return Path(log_dir) / name if trainer.is_global_zero else None


def log_picture(logger: Logger, tag: str, picture: np.ndarray, step: int) -> None:
    """Hand a picture (H, W, 3) of bytes to a logger; one that takes no pictures goes without."""
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(tag, picture, step, dataformats="HWC")
    elif isinstance(logger, WandbLogger):
        logger.log_image(tag, [picture], step)
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_image(logger.run_id, picture, key=tag, step=step)


def _log(trainer: pl.Trainer, tag: str, picture: np.ndarray) -> None:
    for logger in trainer.loggers if trainer.is_global_zero else []:
        log_picture(logger, tag, picture, trainer.global_step)


def show(trainer: pl.Trainer, tag: str, images: Tensor, columns: int) -> None:
    """Draw uint8 images (N, C, H, W) as a grid: ``<tag>`` in the loggers, ``<tag>.png`` in the run's folder.

    Small images are enlarged. Every rank must call it.
    """
    pixels = enlarged(images.cpu())
    grid = make_grid(pixels, nrow=columns, padding=1, pad_value=128).permute(1, 2, 0).numpy()
    _log(trainer, tag, grid)
    path = file_for(trainer, f"{tag}.png")
    if path is not None:
        write_atomically(path, lambda file: Image.fromarray(grid).save(file, "PNG"))


def show_figure(trainer: pl.Trainer, tag: str, draw: Callable[[], Figure]) -> None:
    """Show a figure as ``show`` does a grid; it is drawn on rank 0 only."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    path = file_for(trainer, f"{tag}.png")
    if not trainer.is_global_zero or not trainer.loggers:
        return
    figure = draw()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    _log(trainer, tag, np.asarray(canvas.buffer_rgba())[..., :3].copy())
    if path is not None:
        write_figure(path, figure)
