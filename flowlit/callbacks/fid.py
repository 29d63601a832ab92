"""Fréchet distances of generated images, during training and after."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torchmetrics import MeanMetric

from ..features import reference_moments
from ..metrics.frechet import Moments, frechet_distance
from ..types import Features, FlowlitError, Images


def tag(features: Features) -> str:
    """Name the distance for its features; only Inception's is an FID."""
    return "fid" if features.name == "inception" else f"frechet_{features.name}"


class FID(Callback):
    """Fréchet distance between what each solver generated in validation and real images, and its mean NFE.

    Logged as ``fid/<solver>`` in Inception's features, ``frechet_<features>/<solver>`` in others, and ``nfe/<solver>``. The
    number of images is ``data.noise.num``; distances of different numbers of images must not be compared.

    Args:
        features: the extractor.
        reference: real images, seen as they are (no flips).
        cache: folder for the reference's mean and covariance.
    """

    def __init__(self, features: Features, reference: Images, cache: str = "data/statistics"):
        self.features, self.reference, self.cache = features, reference, cache
        self._real: tuple[torch.Tensor, torch.Tensor] | None = None
        self._moments: dict[str, Moments] = {}
        self._nfe: dict[str, MeanMetric] = {}

    @property
    def state_key(self) -> str:
        return f"FID[{self.features.name}]"

    def _start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self._real is None:
            if not trainer.is_global_zero:
                trainer.strategy.barrier("reference statistics")
            self._real = reference_moments(self.reference, self.features, self.cache, pl_module.device)
            if trainer.is_global_zero:
                trainer.strategy.barrier("reference statistics")
        dim = len(self._real[0])
        self._moments = {name: Moments(dim).to(pl_module.device) for name in pl_module.solvers}
        self._nfe = {name: MeanMetric().to(pl_module.device) for name in pl_module.solvers}

    def _update(self, outputs: Any, pl_module: Any) -> None:
        for name, solution in outputs["solutions"].items():
            if not torch.isfinite(solution.x1).all():
                bad = int((~torch.isfinite(solution.x1.flatten(1)).all(1)).sum())
                raise FlowlitError(f"{name}: {bad} of {len(solution.x1)} generated images are not finite; training has diverged")
            self._moments[name].update(self.features(pl_module.codec.decode(solution.x1)))
            self._nfe[name].update(solution.nfe.float())

    def _finish(self, pl_module: Any) -> None:
        assert self._real is not None
        for name, moments in self._moments.items():
            mean, cov = moments.compute()
            distance = frechet_distance(mean.cpu(), cov.cpu(), *self._real)
            pl_module.log(f"{tag(self.features)}/{name}", distance, rank_zero_only=True)
            pl_module.log(f"nfe/{name}", self._nfe[name].compute(), rank_zero_only=True)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start(trainer, pl_module)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._update(outputs, pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._finish(pl_module)

    on_test_start = on_validation_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end
