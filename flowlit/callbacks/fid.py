"""Fréchet distances of generated images, during training and after."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torchmetrics import MeanMetric

from ..features import reference_moments
from ..metrics.frechet import Moments, frechet_distance
from ..types import Features, FlowlitError, Images
from .evaluation import Evaluation


def tag(features: Features) -> str:
    """Name the distance for its features; only Inception's is an FID."""
    return "fid" if features.name == "inception" else f"frechet_{features.name}"


class FID(Evaluation):
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
        self._real: tuple[Tensor, Tensor] | None = None
        self._moments: dict[str, Moments] = {}
        self._nfe: dict[str, MeanMetric] = {}

    @property
    def state_key(self) -> str:
        return f"FID[{self.features.name}]"

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Have the extractor and the reference ready before training, so that what is missing is found then."""
        self._prepare(trainer, pl_module)

    def _prepare(self, trainer: pl.Trainer, module: Any) -> tuple[Tensor, Tensor]:
        if self._real is None:
            if not trainer.is_global_zero:
                trainer.strategy.barrier("reference statistics")
            self._real = reference_moments(self.reference, self.features, self.cache, module.device)
            if trainer.is_global_zero:
                trainer.strategy.barrier("reference statistics")
        return self._real

    def begin(self, trainer: pl.Trainer, module: Any) -> None:
        dim = len(self._prepare(trainer, module)[0])
        self._moments = {name: Moments(dim).to(module.device) for name in module.solvers}
        self._nfe = {name: MeanMetric().to(module.device) for name in module.solvers}

    def look(self, trainer: pl.Trainer, module: Any, outputs: Any, batch_idx: int) -> None:
        for name, solution in outputs["solutions"].items():
            if not torch.isfinite(solution.x1).all():
                bad = int((~torch.isfinite(solution.x1.flatten(1)).all(1)).sum())
                raise FlowlitError(f"{name}: {bad} of {len(solution.x1)} generated images are not finite; training has diverged")
            self._moments[name].update(self.features(module.codec.decode(solution.x1)))
            self._nfe[name].update(solution.nfe.float())

    def end(self, trainer: pl.Trainer, module: Any) -> None:
        for name, moments in self._moments.items():
            mean, cov = moments.compute()
            distance = frechet_distance(mean.cpu(), cov.cpu(), *self._prepare(trainer, module))
            module.log(f"{tag(self.features)}/{name}", distance, rank_zero_only=True)
            module.log(f"nfe/{name}", self._nfe[name].compute(), rank_zero_only=True)
