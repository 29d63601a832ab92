"""The Fréchet distance of infinitely many images, from those of subsets.

Chong and Forsyth 2020 (1911.07023): the distance of finite sets is too large, by a bias that falls as one
over their size. It depends on the model, so that not even distances of equally many images rank models.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from .._support.permutation import shuffled
from ..errors import FlowlitError
from .base import FeatureBatch, FeatureMetric, jackknife
from .frechet import Moments, covariance, frechet_distance
from .report import Estimate

BLOCKS = 4
"""Of images on each side; subsets are two, three or all of them."""

_KEY = 20191107
_ROWS = 1000

BlockSums = tuple[Tensor, Tensor, Tensor]
"""Σ 1 (), Σ f (d,) and Σ f fᵀ (d, d) of a block."""


@dataclass
class FrechetExtrapolated(FeatureMetric):
    """The Fréchet distance as if there were infinitely many images, generated and real.

    A line through the distances of halves, three quarters and all of both sets, over one by their size; its
    intercept has no bias of first order, and may be slightly negative. It needs twice as many images as
    features on each side: with fewer the line is bent, the result too large, and a warning says so. Its
    spread is a jackknife over the quarters of both sets, and what the three sizes are off the line. Quarters
    are of a fixed shuffle.

    Eleven distances: 10 s at 1280 features on one core.
    """

    needs_real = True
    numbers = ("fid_extrapolated",)

    def check(self, generated: int, real: int | None) -> None:
        if min(generated, generated if real is None else real) < 2 * BLOCKS:
            raise FlowlitError(
                f"FrechetExtrapolated: found {generated} generated and {real} real images, expected at least "
                f"{2 * BLOCKS} of each, and twice as many as features"
            )

    def __call__(self, generated: FeatureBatch, real: Tensor | None) -> dict[str, Estimate]:
        assert real is not None
        _warn_of_few(len(generated.features), *real.shape)
        distances = subset_distances(generated.features, real)
        places = [BLOCKS / size for size in distances]
        intercept, off = extrapolate(places, [float(np.mean(values)) for values in distances.values()])
        error = jackknife(torch.tensor(distances[BLOCKS - 1], dtype=torch.float64))
        return {"fid_extrapolated": Estimate(intercept, math.hypot(error, off))}


def _warn_of_few(generated: int, real: int, dim: int) -> None:
    if min(generated, real) < 2 * dim:
        warnings.warn(
            f"FrechetExtrapolated: {generated:,} generated and {real:,} real images for {dim:,} features; "
            f"with fewer than {2 * dim:,} of each the number is still too large: measure KID, or take more",
            stacklevel=3,
        )


def subset_distances(generated: Tensor, real: Tensor) -> dict[int, list[float]]:
    """Return blocks in a subset -> distances of generated (N, d) and real features (M, d) in such subsets."""
    ours = _blocks(generated)
    theirs = _blocks(real)

    def distance(some: Collection[int]) -> float:
        return frechet_distance(*_moments(ours, some), *_moments(theirs, some))

    sizes = range(BLOCKS // 2, BLOCKS + 1)
    return {size: [distance(some) for some in itertools.combinations(range(BLOCKS), size)] for size in sizes}


def extrapolate(places: list[float], values: list[float]) -> tuple[float, float]:
    """Return where the line of least squares through values meets place 0, and how uncertain that is.

    The uncertainty is what the values are off the line.

    >>> intercept, off = extrapolate([1, 2, 4], [3, 5, 9])
    >>> round(intercept, 9), round(off, 9)
    (1.0, 0.0)
    """
    coefficients, scale = np.polyfit(places, values, 1, cov="unscaled")
    residuals = np.asarray(values) - np.polyval(coefficients, places)
    variance = float(residuals @ residuals) / (len(places) - 2)
    return float(coefficients[1]), (variance * float(scale[1, 1])) ** 0.5


def _blocks(features: Tensor) -> list[BlockSums]:
    """Return the sums of each block of the shuffled rows of features (N, d), read 1000 at a time."""
    order = torch.from_numpy(shuffled(np.arange(len(features)), len(features), _KEY))
    sums = []
    for block in order.tensor_split(BLOCKS):
        moments = Moments(features.shape[1], alone=True)
        for rows in block.split(_ROWS):
            moments.update(features[rows])
        sums.append((moments.count, moments.total, moments.outer))
    return sums


def _moments(blocks: list[BlockSums], some: Collection[int]) -> tuple[Tensor, Tensor]:
    """Return mean (d,) and covariance (d, d) of some of the blocks."""

    def add(a: BlockSums, b: BlockSums) -> BlockSums:
        return a[0] + b[0], a[1] + b[1], a[2] + b[2]

    return covariance(*reduce(add, (blocks[i] for i in some)))
