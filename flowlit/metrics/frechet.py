"""The Fréchet distance between Gaussians fitted to features. Heusel et al. 2017 (1706.08500); an FID only in Inception's."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from ..types import FlowlitError


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    """‖m1 - m2‖² + tr(C1 + C2 - 2 (C1 C2)^½), in float64, for means (d,) and covariances (d, d).

    >>> eye = torch.eye(2, dtype=torch.float64)
    >>> round(frechet_distance(torch.zeros(2), eye, torch.ones(2), 4 * eye), 9)
    4.0
    """
    mean1, cov1, mean2, cov2 = (x.double() for x in (mean1, cov1, mean2, cov2))
    values, vectors = torch.linalg.eigh(cov1)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    # tr (C1 C2)^½ = tr (C1^½ C2 C1^½)^½, whose argument is symmetric
    cross = torch.linalg.eigvalsh(root @ cov2 @ root).clamp_min(0).sqrt().sum()
    return float((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * cross)


class Moments(Metric):
    """Mean and covariance of features in float64, streaming and summed over ranks."""

    full_state_update = False
    count: Tensor
    total: Tensor
    outer: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        for name, shape in (("count", ()), ("total", (dim,)), ("outer", (dim, dim))):
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")
        self.set_dtype(torch.float64)

    def update(self, features: Tensor) -> None:
        """Add features (B, d).

        Raises:
            FlowlitError: if a feature is not finite.
        """
        features = features.double()
        if not torch.isfinite(features).all():
            bad = int((~torch.isfinite(features).all(1)).sum())
            raise FlowlitError(f"{bad} of {len(features)} samples have features that are not finite")
        self.count += len(features)
        self.total += features.sum(0)
        self.outer += features.T @ features

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return mean (d,) and unbiased covariance (d, d).

        Raises:
            FlowlitError: for fewer than two samples.
        """
        if self.count < 2:
            raise FlowlitError(f"a covariance needs at least 2 samples, found {int(self.count)}")
        mean = self.total / self.count
        return mean, (self.outer - self.count * torch.outer(mean, mean)) / (self.count - 1)
