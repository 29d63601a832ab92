"""Numbers about flows and images: Fréchet distance and its relatives, geometry, memorisation, cost."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "ClassifierFeatures": "features",
    "FeatureExtractor": "base",
    "FeatureMetric": "base",
    "Inception": "inception",
    "InceptionScore": "fidelity",
    "KID": "fidelity",
    "NetworkFeatures": "features",
    "PrecisionRecall": "fidelity",
}
__all__ = [
    "KID",
    "ClassifierFeatures",
    "FeatureExtractor",
    "FeatureMetric",
    "Inception",
    "InceptionScore",
    "NetworkFeatures",
    "PrecisionRecall",
]


def __getattr__(name: str) -> Any:
    """Import one name at a time: extractors bring torch-fidelity and networks."""
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
