"""The Fréchet distance between Gaussians fitted to features, an FID only in Inception's.

Heusel et al. 2017 (1706.08500).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch
from torch import Tensor

from ..errors import FlowlitError
from ..solvers.base import non_finite
from .base import Sums, jackknife
from .report import Estimate


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    """‖m1 - m2‖² + tr(C1 + C2 - 2 (C1 C2)^½), in float64, for means (d,) and covariances (d, d).

    >>> eye = torch.eye(2, dtype=torch.float64)
    >>> round(frechet_distance(torch.zeros(2), eye, torch.ones(2), 4 * eye), 9)
    4.0
    """
    mean1, cov1, mean2, cov2 = (x.double() for x in (mean1, cov1, mean2, cov2))
    return _distance(mean1, cov1, mean2, cov2, _root(cov2))


def _root(cov: Tensor) -> Tensor:
    """Return the symmetric C^½, half of the work of a distance."""
    values, vectors = torch.linalg.eigh(cov)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def _distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor, root2: Tensor) -> float:
    # tr (C1 C2)^½ = tr (C2^½ C1 C2^½)^½, whose argument is symmetric
    cross = torch.linalg.eigvalsh(root2 @ cov1 @ root2).clamp_min(0).sqrt().sum()
    return float((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * cross)


class Moments(Sums):
    """Mean and covariance of features in float64, streaming and summed over ranks.

    Args:
        dim: of the features.
        alone: only this rank computes, and must not wait for others.
    """

    count: Tensor
    total: Tensor
    outer: Tensor

    def __init__(self, dim: int, alone: bool = False) -> None:
        super().__init__(alone, count=(), total=(dim,), outer=(dim, dim))

    def update(self, features: Tensor) -> None:
        """Add features (B, d).

        Raises:
            FlowlitError: if a feature is not finite.
        """
        features = features.double()
        bad = non_finite(features)
        if bad:
            raise FlowlitError(f"{bad} of {len(features)} samples have features that are not finite")
        self.count += len(features)
        self.total += features.sum(0)
        self.outer.addmm_(features.T, features)  # in place: 33 MB at d = 2048, for every batch

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return mean (d,) and unbiased covariance (d, d).

        Raises:
            FlowlitError: for fewer than two samples.
        """
        if self.count < 2:
            raise FlowlitError(f"a covariance needs at least 2 samples, found {int(self.count)}")
        return covariance(self.count, self.total, self.outer)


def covariance(count: Tensor, total: Tensor, outer: Tensor) -> tuple[Tensor, Tensor]:
    """Turn the sums Σ 1, Σ f, Σ f fᵀ into mean (d,) and unbiased covariance (d, d)."""
    mean = total / count
    return mean, (outer - count * torch.outer(mean, mean)) / (count - 1)


def few_images(dim: int, **counts: int | None) -> str:
    """Return in words what a distance in ``dim`` features means if images are few; "" if they suffice.

    Args:
        dim: of the features.
        counts: images of each kind; None where that is not known.

    >>> few_images(8, real=8, generated=9)[:32]
    '8 real images for 8 features: th'
    """
    few = [f"{count:,} {kind}" for kind, count in counts.items() if count is not None and count <= dim]
    if not few:
        return ""
    return (
        f"{' and '.join(few)} images for {dim:,} features: their Fréchet distance is far too large, and "
        f"compares only with those of exactly as many images; measure KID, which does not depend on their "
        f"number, or FrechetExtrapolated with {2 * dim:,} or more"
    )


def frechet_estimates(features: Tensor, mean: Tensor, cov: Tensor, groups: int = 10) -> dict[str, Estimate]:
    """Return the distance of features (N, d) from mean (d,) and cov (d, d), and that of the first half.

    Their difference shows the bias. The spread of the first is the standard error of the jackknife over
    groups of consecutive features, each of which is left out in turn.

    Raises:
        FlowlitError: for fewer than four features, or if one is not finite.
    """
    if len(features) < 4:
        raise FlowlitError(
            f"a Fréchet distance and that of one half need at least 4 images, found {len(features)}"
        )
    groups = min(groups, len(features) // 2) // 2 * 2
    bounds = [i * len(features) // groups for i in range(groups + 1)]
    sums = [_sums(features[start:stop]) for start, stop in itertools.pairwise(bounds)]
    mean = mean.double()
    cov = cov.double()
    root = _root(cov)

    def distance(some: Iterable[int]) -> float:
        parts = zip(*(sums[i] for i in some), strict=True)
        return _distance(*covariance(*(sum(part[1:], part[0]) for part in parts)), mean, cov, root)

    spread = None
    if groups > 2:
        without = [distance(i for i in range(groups) if i != left) for left in range(groups)]
        spread = jackknife(torch.tensor(without, dtype=torch.float64))
    return {
        "fid": Estimate(distance(range(groups)), spread),
        "fid_half": Estimate(distance(range(groups // 2))),
    }


def _sums(features: Tensor, block: int = 1000) -> tuple[Tensor, Tensor, Tensor]:
    moments = Moments(features.shape[1])
    for rows in features.split(block):
        moments.update(rows)
    return moments.count, moments.total, moments.outer
