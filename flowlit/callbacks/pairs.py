"""Write couplings."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info

from .. import __version__
from ..couplings.noise import GENERATOR, SeededNoise
from ..couplings.store import Store
from ..types import FlowlitError, Noise, Solution

Dtype = Literal["float32", "float16"]


class PairWriter(BasePredictionWriter):
    """Write each predicted shard of pairs to a store, atomically, and the manifest at the end.

    Args:
        store: where to.
        noise: what the shards are made of.
        shard_size: pairs per file.
        dtype: of x0 and x1 on disk; float16 rounds x0 by at most 0.002 and x1 by 0.0005.
    """

    def __init__(self, store: Store, noise: SeededNoise, shard_size: int, dtype: Dtype = "float32"):
        super().__init__(write_interval="batch")
        if dtype not in ("float32", "float16"):
            raise FlowlitError(f"couple: dtype is {dtype!r}; expected float32 or float16")
        self.store, self.noise, self.shard_size, self.dtype = store, noise, shard_size, dtype

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        self._check_disk()  # first, so that what it advises is still possible
        self.store.begin(
            {
                "direction": "noise (x0, t = 0) -> data (x1, t = 1)",
                "count": len(self.noise),
                "shape": list(self.noise.shape),
                "num_classes": self.noise.num_classes,
                "seed": self.noise.seed,
                "noise": GENERATOR,
                "dtype": self.dtype,
                "shard_size": self.shard_size,
                **pl_module.provenance(),
                "flowlit": __version__,
            }
        )

    def _check_disk(self) -> None:
        """Refuse before the first batch if the disk cannot hold the missing shards."""
        value_bytes = 4 if self.dtype == "float32" else 2
        entries = 2 * torch.Size(self.noise.shape).numel()
        missing = max(0, len(self.noise) - len(self.store.finished_shards()) * self.shard_size)
        needed, free = missing * (entries * value_bytes + 16), shutil.disk_usage(_existing(self.store.folder)).free
        if needed > free:
            raise FlowlitError(
                f"{self.store.folder}: {missing} pairs need {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free; "
                "make fewer (--num), store them as --dtype float16, or choose another disk (--store)"
            )

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: tuple[Noise, Solution],
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        noise, solution = prediction
        if not torch.isfinite(solution.x1).all():
            raise FlowlitError("the teacher's images are not finite; nothing of this shard was written")
        dtype = getattr(torch, self.dtype)
        tensors = {"index": noise.index, "x0": noise.x0.to(dtype), "x1": solution.x1.to(dtype), **noise.cond}
        self.store.write_shard(int(noise.index[0]) // self.shard_size, tensors, solution.nfe)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Finish the store, also when every shard was there already and nothing had to be predicted."""
        trainer.strategy.barrier("couplings")
        if trainer.is_global_zero:
            manifest = self.store.manifest()
            if not manifest["complete"]:
                manifest = self.store.finish()
            rank_zero_info(
                f"flowlit: {manifest['count']} pairs in {self.store.folder}, "
                f"NFE {manifest['nfe']['mean']:.1f} on average, {manifest['nfe']['max']} at most"
            )


def _existing(folder: Path) -> Path:
    """The folder, or the closest one above it that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
