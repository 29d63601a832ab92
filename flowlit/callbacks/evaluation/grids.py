"""Images for callbacks that draw: which are chosen, and how they are made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor

from ..._engine.ranks import gathered_objects
from ..._support.nested import rows_of
from ...errors import FlowlitError
from ...ranges import PositiveInt
from ...types import Noise
from .base import Evaluation


def check_noise(trainer: pl.Trainer, stage: str, who: str, num: int) -> Any:
    """Return ``data.noise``, if a run that is being set up will generate images from it; None if not.

    Raises:
        FlowlitError: unless it has at least ``num`` samples.
    """
    if stage == "predict" or (stage == "fit" and trainer.limit_val_batches == 0):
        return None
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
    return move_data_to_device(trainer.datamodule.noise.batch(rows), module.device)  # type: ignore[attr-defined]


def in_parts(trainer: pl.Trainer, noise: Noise) -> Iterator[Noise]:
    """Yield as many samples at a time as validation takes (``data.noise_batch_size``)."""
    size = trainer.datamodule.noise_batch_size  # type: ignore[attr-defined]
    for start in range(0, len(noise.x0), size):
        yield rows_of(noise, slice(start, start + size))


def generate(trainer: pl.Trainer, module: Any, solver: str, noise: Noise) -> Tensor:
    """Solve as validation does, and in its precision; return uint8 images (B, C, H, W) on the CPU."""
    with trainer.precision_plugin.val_step_context():
        solved = [module.solve(solver, part).x1 for part in in_parts(trainer, noise)]
    return torch.cat([module.codec.decode(x1).cpu() for x1 in solved])


class FirstImages(Evaluation):
    """Look at the first ``num`` images of every solver, whatever batches and ranks a validation run has."""

    def __init__(self, num: PositiveInt):
        self.num = num
        self._images: dict[str, dict[int, Tensor]] = {}

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        self.watch(trainer, self.num)

    def begin(self, trainer: pl.Trainer, module: Any) -> None:
        self._images = {}

    def look(self, trainer: pl.Trainer, module: Any, outputs: Any, batch_idx: int) -> None:
        """Keep those images of a batch that are among the first."""
        index = outputs["noise"].index
        rows = (index < self.num).nonzero().flatten()
        for name, solution in outputs["solutions"].items():
            images = self._images.setdefault(name, {})
            if len(images) < self.num:
                decoded = module.codec.decode(solution.x1[rows]).cpu()
                images.update(zip(index[rows].tolist(), decoded, strict=True))

    def gather(self) -> dict[str, Tensor]:
        """Bring together the images of all ranks, uint8 (num, C, H, W) by solver, in the order of noise."""
        together: dict[str, dict[int, Tensor]] = {}
        for part in gathered_objects(self._images):
            for name, images in part.items():
                together.setdefault(name, {}).update(images)
        return {name: torch.stack([images[i] for i in sorted(images)]) for name, images in together.items()}
