"""Numbers about flows and images: Fréchet distance and its relatives, geometry, memorisation, cost."""

from __future__ import annotations

from .._support.names import lazily

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

__getattr__ = lazily(__name__, _HOMES)  # extractors bring torch-fidelity and networks
