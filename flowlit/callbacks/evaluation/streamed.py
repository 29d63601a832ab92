"""Sums over generated images as they come, where their features are not kept."""

from __future__ import annotations

from collections.abc import Iterable

import lightning.pytorch as pl
import torch
from torch import Tensor
from torchmetrics import MeanMetric

from ...metrics.base import Reference
from ...metrics.fidelity import tag
from ...metrics.frechet import Moments, frechet_distance


class Streamed:
    """Moments of the features, and the mean NFE, of each solver.

    Args:
        solvers: their names.
        dim: entries of a feature vector; 0 where there are no features.
        device: of what is summed.
    """

    def __init__(self, solvers: Iterable[str], dim: int, device: torch.device):
        self._nfe = {name: MeanMetric().to(device) for name in solvers}
        self._moments = {name: Moments(dim).to(device) for name in self._nfe if dim}

    def update(self, solver: str, nfe: Tensor, features: Tensor | None = None) -> None:
        """Add evaluations (B,) and features (B, d) of a batch."""
        self._nfe[solver].update(nfe.float())
        if features is not None:
            self._moments[solver].update(features)

    def log(self, module: pl.LightningModule, features: str, real: Reference | None) -> None:
        """Log NFE, and the distance in features of that name, which are equal on all ranks."""
        for name, nfe in self._nfe.items():
            if real is not None:
                mean, cov = self._moments[name].compute()
                distance = frechet_distance(mean.cpu(), cov.cpu(), real.mean, real.cov)
                module.log(f"{tag(features)}/{name}", distance)
            module.log(f"nfe/{name}", nfe.compute())
