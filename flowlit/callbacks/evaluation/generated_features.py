"""Features of generated images on disk, so that an interrupted evaluation goes on."""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from ..._engine.ranks import on_rank_zero
from ..._support.files import check_room, short_hash
from ..._support.locks import locked_folder
from ..._support.machine import hardware
from ..._version import __version__
from ...errors import FlowlitError
from ...metrics.base import FeatureExtractor
from ...metrics.feature_cache import FeatureCache
from .base import noise_of


class GeneratedFeatures:
    """Features of the images of ``validate`` or ``test``, on disk by their index.

    The folder's name is a hash of everything that the features depend on. An interrupted run goes on there,
    and a finished one is measured again without generating.

    Args:
        features: the extractor.
        trainer: of this run.
        module: that generates, with its weights.
    """

    def __init__(self, features: FeatureExtractor, trainer: pl.Trainer, module: Any):
        weights = on_rank_zero(trainer, features.fingerprint)  # first there: one process downloads them
        facts = [
            module.generation(),
            noise_of(trainer).identity(),
            weights,
            str(trainer.precision),
            module.device.type,
            __version__,
            torch.__version__,
        ]
        key = short_hash(json.dumps(facts, sort_keys=True, default=str))
        self._temporary: tempfile.TemporaryDirectory | None = None
        folder = trainer.strategy.broadcast(self._parent(trainer) / f"{features.name}-{key}")
        self.cache = FeatureCache(folder, device=hardware(trainer.world_size, module.device)["device"])
        self._lock = ExitStack()
        stored: Any = on_rank_zero(trainer, self._hold)
        self.stored: np.ndarray = trainer.strategy.broadcast(stored)
        """Indices (N,) int64 that an earlier run has left."""
        self._announce(self.reused(len(noise_of(trainer))))

    def _hold(self) -> np.ndarray:
        mend = "choose another folder for the run (--vars.root)"
        self._lock.enter_context(locked_folder(self.cache.folder, "evaluation", mend))
        return self.cache.clean()

    def _parent(self, trainer: pl.Trainer) -> Path:
        folder = trainer.log_dir  # on every rank, since Lightning broadcasts it
        if trainer.loggers and folder is not None and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            return Path(folder) / "features"
        if trainer.is_global_zero:
            self._temporary = tempfile.TemporaryDirectory(
                prefix="flowlit-features-", ignore_cleanup_errors=True
            )
        return Path(self._temporary.name if self._temporary else "")  # rank 0 has the name

    def _announce(self, reused: int) -> None:
        folder = self.cache.folder
        if reused:
            rank_zero_info(
                f"flowlit: features of {reused:,} of these images are in {folder} already, and are not "
                "taken again"
            )
        others = [path for path in folder.parent.glob("*-*") if path.is_dir() and path != folder]
        if others:
            rank_zero_info(
                f"flowlit: {folder.parent} holds features of {len(others)} other sets; remove what you do "
                "not need"
            )

    def reused(self, num: int) -> int:
        """Count the first ``num`` images whose features an earlier run has left."""
        return int((self.stored < num).sum())

    def check(self, trainer: pl.Trainer, module: Any, dim: int, classes: int) -> None:
        """Refuse features that do not fit on the disk.

        Args:
            trainer: of this run.
            module: that generates.
            dim: entries of a feature vector.
            classes: entries of the logits.
        """
        num = len(noise_of(trainer))
        missing = num - self.reused(num)
        needed = 4 * (len(module.solvers) * missing * (dim + classes) + num * dim)
        if trainer.is_global_zero:
            mend = "free some, or evaluate fewer images or solvers"
            check_room(self.cache.folder.parent, needed, f"features of {missing:,} images", mend)

    def add(self, rows: dict[str, Tensor], first: bool) -> None:
        """Write the new rows of a batch; compare those of the first batch that are on disk already.

        Args:
            rows: ``index`` (B,); ``<solver>.features`` (B, d), ``.nfe`` (B,) and ``.logits`` (B, classes).
            first: whether this is the first batch.
        """
        new = torch.from_numpy(~np.isin(rows["index"].numpy(), self.stored))
        if first and not new.all():
            self._compare(rows)
        if new.any():
            self.cache.add({name: tensor.cpu()[new] for name, tensor in rows.items()})

    def _compare(self, rows: dict[str, Tensor]) -> None:
        """Refuse stored features that this run would not compute, since code has changed, for instance."""
        for name in [name for name in rows if name.endswith(".features")]:
            index, stored = self.cache.some(name, rows["index"])
            computed = rows[name].cpu()[torch.isin(rows["index"], index)]
            if (computed - stored).abs().max() > 0.05 * stored.std():
                raise FlowlitError(
                    f"{self.cache.folder} holds other features of the same samples ({name}): has code of the "
                    "network, a solver, the codec or the extractor changed? Remove that folder"
                )

    def close(self) -> None:
        """Let others write the folder, and remove a temporary one."""
        self._lock.close()
        if self._temporary is not None:
            self._temporary.cleanup()
