"""Verification of a store, every byte and the statistics; one pass, one shard in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ..._support.progress import Bar
from ...errors import FlowlitError
from ..noise import GENERATOR, seeded_normals
from .checks import check_shard, indices_fit, is_normal, labels_fit
from .encoding import restored, rounded
from .manifest import check_ranges, read_manifest
from .plan import plan
from .shard import ShardFile

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


def verify(folder: str | Path, quiet: bool = False) -> list[Check]:
    """Check a store: files, counts, indices, noise, correlation of the ends, range, direction, labels.

    Raises:
        FlowlitError: if there is no manifest to compare with.
    """
    folder = Path(folder)
    manifest = read_manifest(folder, whole=False)
    moments = None
    walk = _Walk(folder, manifest)
    for x0, x1 in walk.shards(quiet):
        moments = moments or PairMoments(x0.shape[1])
        moments.add(x0, x1)
    checks = [*walk.checks()]
    if moments is not None:
        normal = is_normal(manifest)
        checks += _noise(moments, manifest) if normal else [NOT_CHECKED]
        checks.append(_correlation(moments, manifest))
        checks += [_direction(moments)] if normal else ()
    return checks


class _Walk:
    """One pass over the files, which collects what is wrong with each."""

    def __init__(self, folder: Path, manifest: dict[str, Any]):
        self.folder = folder
        self.manifest = manifest
        self.bad: dict[str, list[str]] = {
            key: [] for key in ("files", "indices", "drawn again", "labels", "finite")
        }
        self.rows = 0
        self.low = math.inf
        self.high = -math.inf

    def shards(self, quiet: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Both ends of every good shard, (rows, entries) float64."""
        for entry in Bar(
            self.manifest["shards"], desc="Verifying", unit=" shards", disable=quiet, leave=False
        ):
            try:
                shard = ShardFile(self.folder / Path(entry["file"]).name, entry["sha256"])
                check_shard(shard, self.manifest, entry)
            except FlowlitError as error:
                self.bad["files"].append(str(error))
                continue
            x0, x1 = self._look(shard, entry)
            if torch.isfinite(x0).all() and torch.isfinite(x1).all():
                for a, b in zip(x0.split(1024), x1.split(1024), strict=True):
                    yield a.double().flatten(1).numpy(), b.double().flatten(1).numpy()
            else:
                self.bad["finite"].append(entry["file"])

    def _look(self, shard: ShardFile, entry: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        index = shard.read("index")
        x1 = restored(torch.from_numpy(shard.read("x1")))
        self.rows += len(index)
        if not indices_fit(index, entry):
            self.bad["indices"].append(entry["file"])
        x0 = self._noise(shard, entry, index)
        self.low = min(self.low, float(x1.min()))
        self.high = max(self.high, float(x1.max()))
        if "label" in shard and not labels_fit(shard.read("label"), index, self.manifest):
            self.bad["labels"].append(entry["file"])
        return x0, x1

    def _noise(self, shard: ShardFile, entry: dict[str, Any], index: np.ndarray) -> torch.Tensor:
        """Read x0 or draw it again; stored noise of a known generator is compared with what it draws."""
        shape = self.manifest["shape"]
        stored = self.manifest["x0"]
        if stored == "seed":
            return seeded_normals([entry["seed"]], index.tolist(), shape)
        x0 = torch.from_numpy(shard.read("x0"))
        if self.manifest["noise"].get("generator") == GENERATOR:
            again = rounded(seeded_normals([entry["seed"]], index.tolist(), shape), stored)
            if not torch.allclose(again.float(), x0.float(), rtol=0, atol=2e-3):
                self.bad["drawn again"].append(entry["file"])
        return x0.float()

    def checks(self) -> Iterator[Check]:
        """The lines about files, counts, indices, range and labels."""
        manifest = self.manifest
        count = self.manifest["counts"][-1]
        expected = len(plan(manifest["counts"], manifest["shard_size"]))
        files = self.bad["files"]
        damage = (
            f"{len(files)} damaged: {'; '.join(files[:3])}" if files else f"{len(manifest['shards'])} sound"
        )
        yield Check("files", damage, f"{expected} sound", not files and len(manifest["shards"]) == expected)
        unfinished = (
            "" if manifest["complete"] else "; the store is not finished: run the command that began it again"
        )
        yield Check(
            "pairs", f"{self.rows:,}{unfinished}", f"{count:,}", self.rows == count and manifest["complete"]
        )
        try:
            check_ranges([self.folder], [manifest])
            twice = self.bad["indices"]
        except FlowlitError as error:
            twice = [str(error)]
        yield Check("indices", _files(twice, "unique"), "unique", not twice)
        if manifest["noise"].get("generator") == GENERATOR:
            other = self.bad["drawn again"]
            yield Check(
                "seed", _files(other, "gives the same noise here"), "gives the same noise here", not other
            )
        if manifest["labels"]:
            wrong = self.bad["labels"]
            yield Check("labels", _files(wrong, "as in the manifest"), "as in the manifest", not wrong)
        if self.rows:
            yield Check("values", _files(self.bad["finite"], "finite"), "finite", not self.bad["finite"])
            yield self._range()

    def _range(self) -> Check:
        low, high = self.manifest.get("range", (-math.inf, math.inf))
        fits = low - 0.01 <= self.low <= self.high <= high + 0.01
        expected = f"{low} … {high}"
        if "codec" not in self.manifest:  # latents may be of any range
            fits = fits and max(-self.low, self.high) <= 5
            expected += ", about [-1, 1]"
        return Check("range of x1", f"{self.low:.3f} … {self.high:.3f}", expected, fits)


def _files(bad: list[str], good: str) -> str:
    more = " …" if len(bad) > 3 else ""
    return f"not in {', '.join(bad[:3])}{more}" if bad else good


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
