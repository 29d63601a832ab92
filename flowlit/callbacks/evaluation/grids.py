"""Images for callbacks that draw: which are chosen, and where pictures go."""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torchvision.utils import make_grid, save_image

from ..._support.files import write_atomically, write_figure
from ...errors import FlowlitError
from ...types import Noise, Solution

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def boards(trainer: pl.Trainer) -> list[Any]:
    """Return the TensorBoard writers of a trainer."""
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def folder_for(trainer: pl.Trainer, log_dir: str | None, tag: str) -> Path | None:
    """Make the folder of the file ``<log_dir>/<tag>``; None where a run leaves no files."""
    if log_dir is None or not trainer.loggers or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return None
    folder = (Path(log_dir) / tag).parent
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def show(trainer: pl.Trainer, log_dir: str | None, tag: str, images: Tensor, columns: int) -> None:
    """Draw uint8 images (N, C, H, W) as a grid: ``<tag>`` in TensorBoard, ``<tag>.png`` in the run's folder.

    On rank 0 only, with a ``log_dir`` that every rank has read, since Lightning broadcasts it.
    """
    grid = make_grid(images.float().cpu() / 255, nrow=columns, padding=1, pad_value=0.5)
    for board in boards(trainer):
        board.add_image(tag, grid, trainer.global_step)
    folder = folder_for(trainer, log_dir, tag)
    if folder is not None:
        path = folder / f"{Path(tag).name}.png"
        write_atomically(path, lambda file: save_image(grid, file, format="png"))


def show_figure(trainer: pl.Trainer, log_dir: str | None, tag: str, figure: Figure) -> Path | None:
    """Show a figure as ``show`` does a grid; return the folder of its file, if there is one."""
    for board in boards(trainer):
        board.add_figure(tag, figure, trainer.global_step)
    folder = folder_for(trainer, log_dir, tag)
    if folder is not None:
        write_figure(folder / f"{Path(tag).name}.png", figure)
    return folder


def evaluates(trainer: pl.Trainer, stage: str) -> bool:
    """Return whether a run that is being set up will generate images from ``data.noise``."""
    return stage != "predict" and not (stage == "fit" and trainer.limit_val_batches == 0)


def check_noise(trainer: pl.Trainer, who: str, num: int) -> Any:
    """Return ``data.noise``, if it has at least ``num`` samples.

    Raises:
        FlowlitError: otherwise.
    """
    noise = getattr(getattr(trainer, "datamodule", None), "noise", None)
    if noise is None:
        raise FlowlitError(f"{who} draws what noise becomes, but there is none; give data.noise (shape, num)")
    if not 1 <= num <= len(noise):
        raise FlowlitError(
            f"{who} needs {num} samples, but data.noise.num is {len(noise)}; lower its num or raise "
            "data.noise.num"
        )
    return noise


def first_noises(trainer: pl.Trainer, module: Any, num: int, stripe: bool = False) -> Noise:
    """Return the first ``num`` noises of validation, on the module's device.

    All of them on every rank, or with ``stripe`` divided among the ranks.
    """
    rows = range(num)[trainer.global_rank :: trainer.world_size] if stripe else range(num)
    index, x0, cond = trainer.datamodule.noise.batch(rows)  # type: ignore[attr-defined]
    to = module.device
    return Noise(index.to(to), x0.to(to), {key: value.to(to) for key, value in cond.items()})


def in_parts(trainer: pl.Trainer, noise: Noise) -> Iterator[Noise]:
    """Yield as many samples at a time as validation takes (``data.noise_batch_size``)."""
    size = trainer.datamodule.noise_batch_size  # type: ignore[attr-defined]
    for start in range(0, len(noise.x0), size):
        part = slice(start, start + size)
        cond = {key: value[part] for key, value in noise.cond.items()}
        yield Noise(noise.index[part], noise.x0[part], cond)


def generate(trainer: pl.Trainer, module: Any, solver: str, noise: Noise) -> Tensor:
    """Solve as validation does, and in its precision; return uint8 images (B, C, H, W) on the CPU."""
    with trainer.precision_plugin.val_step_context():
        solved = [module.solve(solver, part).x1 for part in in_parts(trainer, noise)]
    return torch.cat([module.codec.decode(x1).cpu() for x1 in solved])


class FirstImages:
    """The first ``num`` images of a validation run for every solver, whatever its batches and ranks."""

    def __init__(self, num: int):
        self.num = num
        self._images: dict[str, list[tuple[int, Tensor]]] = {}

    def keep(self, module: Any, noise: Noise, solutions: dict[str, Solution]) -> None:
        """Keep those images of a batch that are among the first."""
        for name, solution in solutions.items():
            images = self._images.setdefault(name, [])
            if len(images) < self.num:
                rows = (noise.index < self.num).nonzero().flatten()
                decoded = module.codec.decode(solution.x1[rows]).cpu()
                images += zip(noise.index[rows].tolist(), decoded, strict=True)

    def gather(self) -> dict[str, Tensor]:
        """Bring together the images of all ranks, uint8 (num, C, H, W) by solver, in the order of noise."""
        parts: list[Any] = [self._images]
        if dist.is_available() and dist.is_initialized():
            parts = [None] * dist.get_world_size()
            dist.all_gather_object(parts, self._images)
        names = {name: None for part in parts for name in part}
        together = {
            name: sorted((pair for part in parts for pair in part.get(name, [])), key=itemgetter(0))
            for name in names
        }
        return {name: torch.stack([image for _, image in images]) for name, images in together.items()}
