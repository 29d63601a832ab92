"""The fields of reports of an evaluation (``metrics*.json``) that are read again. Read without torch."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from .._support.schema import Count, Format

FORMAT = "flowlit-metrics"
VERSION = 2

FILES = {"validate": "metrics.json", "test": "metrics_test.json", "sweep": "metrics_sweep.json"}
"""Files of the commands: regular numbers and published ones stand side by side."""


class ReferenceFacts(Struct):
    """The part of a reference's identity in which measurements may differ."""

    sha256: str | None = None
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


REPORT = Format(Measurements, "report of metrics", "run the evaluation again", FORMAT, (1, VERSION))
