"""The fields of reports of an evaluation (``metrics*.json``) that are read again. Read without torch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import Struct

from .._support.schema import Count, Format
from ..errors import FlowlitError

FORMAT = "flowlit-metrics"
VERSION = 2

FILES = {"validate": "metrics.json", "test": "metrics_test.json", "sweep": "metrics_sweep.json"}
"""Files of the commands: regular numbers and published ones stand side by side."""


class Estimate(NamedTuple):
    """Measured number, and the standard deviation of its estimate where that is defined."""

    value: float
    spread: float | None = None


class ReferenceFacts(Struct):
    """The part of a reference's identity in which measurements may differ."""

    sha256: str | None = None
    images: str | None = None
    """Fingerprint of its images."""
    count: Count | None = None


class FeatureFacts(Struct):
    """Features in which images were measured, and against what."""

    sha256: str | None = None
    images: Count | None = None
    reference: ReferenceFacts | None = None


class PairedFacts(Struct):
    """Measures of images against the images that they should be: title of each name."""

    metrics: dict[str, str] = {}


class Measurements(Struct):
    """A report; numbers that are not finite are null."""

    format: str
    metrics: dict[str, float | None]
    spread: dict[str, float | None] = {}
    features: dict[str, FeatureFacts] = {}
    paired: PairedFacts | None = None
    params: Count | None = None
    images: Count | None = None
    sha256: str | None = None
    built: dict[str, Any] | None = None


def distance_features(name: str) -> str | None:
    """Return in whose features a tag without its solver is a Fréchet distance; None for other numbers.

    Halves and extrapolations are other numbers.

    >>> distance_features("fid"), distance_features("frechet_digits"), distance_features("kid")
    ('inception', 'digits', None)
    """
    if name == "fid":
        return "inception"
    features = name.removeprefix("frechet_")
    other = features.startswith("extrapolated_") or features.endswith("_half")
    return None if features == name or other else features


def real_images(reference: dict[str, Any]) -> str | None:
    """Return which real images a reference's identity names: their fingerprint, or else its own hash.

    Covariances of the same images differ in their last bits between processors, and so do their hashes.

    >>> real_images({"images": "0bf59b93", "sha256": "e79550cf"}), real_images({"sha256": "e79550cf"})
    ('0bf59b93', 'e79550cf')
    """
    return reference.get("images") or reference.get("sha256")


REPORT = Format(Measurements, "report of metrics", "run the evaluation again", FORMAT, (1, VERSION))


MOST = 200
"""Reports in and beside a run's folder that are looked at, at most."""


def reports_of(run: Path, weights: str) -> dict[Path, dict[str, Any]]:
    """Return the reports of weights in a run's folder and in those beside it, by file, but damaged ones.

    Args:
        run: the folder, which need not exist.
        weights: their hash.
    """
    places = islice((*run.glob("metrics*.json"), *run.parent.glob("*/metrics*.json")), MOST)
    reports = {}
    for path in sorted(set(places)):
        with suppress(FlowlitError):
            report = REPORT.read(path)
            if report.get("sha256") == weights:
                reports[path] = report
    return reports


class Kind(NamedTuple):
    """Distances that may be compared: of so many images, in the same features, from the same real images."""

    name: str  # fid, or frechet_<features>
    images: int | None
    features: str | None
    reference: str | None

    def label(self, others: Sequence[Kind]) -> str:
        """Return the name and number of images, and what else differs among others of that name."""
        same = [other for other in others if other.name == self.name]
        words = [self.name] if self.images is None else [f"{self.name}, {self.images:,} images"]
        for part in ("features", "reference"):
            if len({getattr(other, part) for other in same}) > 1:
                words.append(f"{part} {str(getattr(self, part))[:8]}")
        return ", ".join(words)


@dataclass
class Record:
    """The measurements of one solver in a report."""

    file: str
    solver: str
    nfe: float | None
    distances: dict[Kind, Estimate]

    def plain(self) -> dict[str, Any]:
        distances = [{**kind._asdict(), **distance._asdict()} for kind, distance in self.distances.items()]
        return {"file": self.file, "solver": self.solver, "nfe": self.nfe, "distances": distances}


def records(file: str, report: dict[str, Any]) -> list[Record]:
    """Return the Fréchet distances of each solver of a report that has any."""
    metrics = report.get("metrics", {})
    spread = report.get("spread", {})
    protocols = report.get("features", {})
    by_solver: dict[str, Record] = {}
    for tag, value in metrics.items():
        name, _, solver = tag.rpartition("/")
        features = distance_features(name)
        if value is None or features is None:
            continue
        protocol = protocols.get(features, {})
        reference = real_images(protocol.get("reference") or {})
        kind = Kind(name, protocol.get("images", report.get("images")), protocol.get("sha256"), reference)
        record = by_solver.setdefault(solver, Record(file, solver, metrics.get(f"nfe/{solver}"), {}))
        record.distances[kind] = Estimate(value, spread.get(tag))
    return list(by_solver.values())
