"""Statistics of the ends of stored pairs, and what true pairs have."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .checks import is_normal

SIGMAS = 5.0
"""How far a statistic of true noise may lie from its expectation, in standard deviations."""


class Check(NamedTuple):
    """One line of the report."""

    name: str
    found: str
    expected: str
    good: bool


NOT_CHECKED = Check("noise", "its statistics and the direction are not checked", "not N(0, I)", True)
"""The line of a store whose manifest has ``standard_normal: false``."""


class PairMoments:
    """Sums over rows, from which all statistics follow: float64, one number for each entry of a pair."""

    def __init__(self, entries: int):
        self.rows = 0
        self.entries = entries
        self.x0, self.x1, self.x00, self.x11, self.x01 = (np.zeros(entries) for _ in range(5))
        self.fourth = {"x0": 0.0, "x1": 0.0}

    def add(self, x0: np.ndarray, x1: np.ndarray) -> None:
        """Add (rows, entries) of both ends."""
        self.rows += len(x0)
        self.x0 = self.x0 + x0.sum(0)
        self.x1 = self.x1 + x1.sum(0)
        self.x00 = self.x00 + (x0**2).sum(0)
        self.x11 = self.x11 + (x1**2).sum(0)
        self.x01 = self.x01 + (x0 * x1).sum(0)
        for name, x in (("x0", x0), ("x1", x1)):
            self.fourth[name] += float((x**4).sum())

    def mean_std_kurtosis(self, end: str) -> tuple[float, float, float]:
        """Return the three over all entries of all rows; (0, 1, 3) for standard normal noise."""
        n = self.rows * self.entries
        first, second = (self.x0, self.x00) if end == "x0" else (self.x1, self.x11)
        mean = first.sum() / n
        square = second.sum() / n
        return (
            float(mean),
            math.sqrt(max(0.0, square - mean**2)),
            self.fourth[end] / n / square**2 if square else math.nan,
        )

    def correlation(self) -> tuple[float, float]:
        """Mean correlation of x0 and x1 over the entries that vary, and its deviation for random pairs."""
        n = self.rows
        covariance = self.x01 / n - self.x0 * self.x1 / n**2
        variance = (self.x00 / n - (self.x0 / n) ** 2) * (self.x11 / n - (self.x1 / n) ** 2)
        varies = variance > 1e-8
        if not varies.any():
            return 0.0, 1.0
        return float((covariance[varies] / np.sqrt(variance[varies])).mean()), 1 / math.sqrt(n * varies.sum())


def compared(moments: PairMoments, manifest: dict[str, Any]) -> list[Check]:
    """Compare the statistics of pairs with those that their origin gives them."""
    normal = is_normal(manifest)
    checks = [*_noise(moments, manifest)] if normal else [NOT_CHECKED]
    checks.append(_correlation(moments, manifest))
    return [*checks, _direction(moments)] if normal else checks


def _noise(moments: PairMoments, manifest: dict[str, Any]) -> Iterator[Check]:
    """Mean, standard deviation and kurtosis of x0; noise that a flow made of data is so only roughly."""
    n = moments.rows * moments.entries
    slack = 0.3 if manifest["origin"] == "data" else 1e-3
    deviations = {
        "mean of x0": (0.0, 1.0),
        "standard deviation of x0": (1.0, 0.5),
        "kurtosis of x0": (3.0, 24.0),
    }
    statistics = moments.mean_std_kurtosis("x0")
    for (name, (expected, variance)), value in zip(deviations.items(), statistics, strict=True):
        tolerance = SIGMAS * math.sqrt(variance / n) + slack * (5 if expected == 3.0 else 1)
        fits = abs(value - expected) <= tolerance
        yield Check(name, f"{value:.4f}", f"{expected:g} ± {tolerance:.4f}", fits)


def _correlation(moments: PairMoments, manifest: dict[str, Any]) -> Check:
    """The ends of a pair belong together; those of random pairs do not."""
    value, deviation = moments.correlation()
    bound = SIGMAS * deviation
    if manifest["origin"] == "random":
        return Check("correlation of x0, x1", f"{value:.4f}", f"0 ± {bound:.4f}", abs(value) <= bound)
    note = "" if value > bound else ": the rows of x0 and x1 do not belong together"
    return Check("correlation of x0, x1", f"{value:.4f}{note}", f"more than {bound:.4f}", value > bound)


def _direction(moments: PairMoments) -> Check:
    """The end that is more like noise, by mean, deviation and kurtosis, must be x0."""

    def distance(end: str) -> float:
        mean, std, kurtosis = moments.mean_std_kurtosis(end)
        return abs(mean) + abs(std - 1) + abs(kurtosis - 3) / 3

    straight = distance("x0") <= distance("x1")
    return Check(
        "direction",
        "x0 is the noise" if straight else "x1 is the noise: ends swapped",
        "x0 is the noise",
        straight,
    )
