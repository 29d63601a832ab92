"""The data of generation: noise to start from, and which of its samples an earlier run has measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader, Dataset, DistributedSampler, default_collate

from ..errors import FlowlitError
from ..ranges import Checked, NonNegativeInt, PositiveInt
from ..types import Coupling, ImageDataset, Source
from .samplers import StridedSampler, check_enough, missing_rows


class EvaluationData(Checked, pl.LightningDataModule):
    """Noise, or held-out images, for ``validate``, ``test`` and ``predict``; the half of ``FlowDataModule``
    that does not train. Arguments as there.
    """

    trainer: Any  # set by Lightning
    coupling: Coupling | None = None  # of the half that trains

    def __init__(
        self,
        noise: Source | None,
        noise_batch_size: PositiveInt,
        test_num: PositiveInt,
        validation: ImageDataset | None,
        num_workers: NonNegativeInt,
    ):
        super().__init__()
        self.noise = noise
        self.noise_batch_size = noise_batch_size
        self.test_num = test_num
        self.validation = validation
        self.num_workers = num_workers
        self._measured: dict[str, Callable[[], np.ndarray]] = {}
        self._required = 0

    def prepare_data(self) -> None:
        """Check images in one process of a machine: the others read the record of a large set."""
        trained = getattr(self.coupling, "images", None) if self.trainer.state.fn == "fit" else None
        for images in (trained, self.validation):
            summary = images.summary() if isinstance(images, ImageDataset) and len(images) else ""
            if summary:
                rank_zero_info(f"flowlit: {summary}")

    def skip(self, name: str, indices: Callable[[], np.ndarray]) -> None:
        """Leave out samples that a callback has from an earlier run, if all callbacks that skip have them.

        Args:
            name: of the callback.
            indices: called when a loader is made, with weights loaded; returns indices (N,) int64.
        """
        self._measured[name] = indices

    def skip_none(self, name: str) -> None:
        """Take back ``skip``."""
        self._measured.pop(name, None)

    def require(self, first: int) -> None:
        """Generate the first samples in any case, since a callback looks at them."""
        self._required = max(self._required, first)

    def evaluated(self, command: str = "validate") -> Source:
        """Return where a command starts to generate from."""
        if self.noise is None:
            raise FlowlitError("validation needs noise to start from: give data.noise (shape, num)")
        return self.noise.first(self.test_num) if command == "test" else self.noise

    def val_dataloader(self) -> DataLoader:
        return self._loader(self.evaluated() if self.validation is None else self.validation, self._measured)

    def test_dataloader(self) -> DataLoader:
        data = self.evaluated("test") if self.validation is None else self.validation
        return self._loader(data, self._measured)

    def predict_dataloader(self) -> DataLoader:
        return self._loader(self.evaluated(), {})

    def _loader(self, data: Any, measured: dict[str, Callable[[], np.ndarray]]) -> DataLoader:
        world = self.trainer.world_size
        rows: Sequence[int] = range(len(data))
        if measured:
            required = max(self.noise_batch_size * world, self._required)
            rows = cast(
                Sequence[int], missing_rows(len(data), [get() for get in measured.values()], required)
            )
        check_enough(len(rows), world)
        sampler = StridedSampler(rows, self.trainer.global_rank, world)
        return make_loader(data, self.noise_batch_size, sampler, self.num_workers)


def make_loader(
    data: Dataset, batch_size: int, sampler: DistributedSampler, workers: int, **options: Any
) -> DataLoader:
    """Return a loader in whose batches rows are stacked, unless the data set reads a batch at once."""
    return DataLoader(
        data,
        batch_size=batch_size,
        sampler=sampler,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        **options,
    )


def collate(rows: Any) -> Any:
    """Stack rows, unless the data set read the batch at once (``__getitems__``)."""
    return default_collate(rows) if isinstance(rows, list) else rows
