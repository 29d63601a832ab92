"""Training images that are nearest to generated ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from ..._support.progress import Bar
from ...errors import FlowlitError
from ...metrics.memorisation import memorisation, nearest
from ...ranges import PositiveInt
from ...types import ImageDataset
from .grids import FirstImages, check_noise
from .pictures import show

_BLOCK = 1000  # training images in memory at a time
_AMONG = 1000  # training images whose own neighbours are sought, at most


class NearestNeighbours(FirstImages):
    """Draw the first images of validation beside their nearest training images, and log how near they are.

    ``neighbours/<solver>``, in the loggers and as PNG, has a row for each: the sample, then its neighbours,
    nearest first, by root mean square difference of pixels. ``memorisation/<solver>`` is the median distance
    of samples to their nearest training image, divided by that of at most 1,000 training images to
    their nearest other one: about 1 or above is fine, near 0 is copying. Mirrored copies are not recognised.

    Args:
        images: what the model was trained on, as they are.
        num: samples that are drawn, so rows.
        k: neighbours in a row.
        measured: samples that ``memorisation`` is of: the first ones, ``num`` at least, or all if there are
            fewer. None is ``num``.
    """

    def __init__(
        self,
        images: ImageDataset,
        num: PositiveInt = 16,
        k: PositiveInt = 5,
        measured: PositiveInt | None = None,
    ):
        super().__init__(num)
        self.images = images
        self.rows = num
        self.measured = max(num, measured or num)
        self.k = k
        self._among: Tensor | None = None

    def protocol(self) -> dict[str, Any]:
        return {"memorisation": {"images": self.images.fingerprint, "samples": self.num}}

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        noise = check_noise(trainer, stage, "NearestNeighbours", self.rows)
        if noise is None:
            return
        self.num = min(self.measured, len(noise))
        super().setup(trainer, pl_module, stage)
        if self.k >= len(self.images):
            raise FlowlitError(
                f"NearestNeighbours: expected k from 1 to {len(self.images) - 1} for {len(self.images)} "
                f"images, found {self.k}"
            )
        real = tuple(self.images[0]["x1"].shape)
        blank = torch.zeros(1, *noise.shape, device=pl_module.device)
        generated = tuple(pl_module.codec.decode(blank).shape[1:])
        if generated != real:
            raise FlowlitError(
                f"NearestNeighbours: its images have shape {real}, but those made from data.noise have "
                f"{generated}; give the images that the model was trained on (images), or make "
                "data.noise.shape equal"
            )

    def end(self, trainer: pl.Trainer, module: Any) -> None:
        quiet = not trainer.is_global_zero or trainer.progress_bar_callback is None
        among = self._among_training(module, quiet)
        for name, samples in self.gather().items():
            blocks = self._blocks(f"NearestNeighbours of {name}", quiet)
            distances, indices = nearest(samples.to(module.device), blocks, self.k)
            module.log(f"memorisation/{name}", memorisation(distances[:, 0], among), rank_zero_only=True)
            drawn = indices[: self.rows]
            near = self._read(drawn.flatten().tolist()).unflatten(0, drawn.shape)
            table = torch.cat([samples[: self.rows, None], near], 1).flatten(0, 1)
            show(trainer, f"neighbours/{name}", table, self.k + 1)

    def _among_training(self, module: Any, quiet: bool) -> Tensor:
        """Return the distances of evenly chosen training images to their nearest other one; computed once."""
        if self._among is None:
            own = torch.arange(0, len(self.images), -(-len(self.images) // _AMONG), device=module.device)
            blocks = self._blocks("NearestNeighbours of training images", quiet)
            self._among = nearest(self._read(own.tolist()).to(module.device), blocks, 1, own)[0][:, 0]
        return self._among

    def _read(self, indices: Iterable[int]) -> Tensor:
        return torch.stack([self.images[index]["x1"] for index in indices])

    def _blocks(self, what: str, quiet: bool) -> Iterator[Tensor]:
        """Yield all images in order, a block at a time, under a bar that appears after two seconds."""
        starts = range(0, len(self.images), _BLOCK)
        for start in Bar(starts, desc=what, unit=" blocks", leave=False, disable=quiet, delay=2):
            yield self._read(range(start, min(start + _BLOCK, len(self.images))))
