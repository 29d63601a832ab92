"""Numbers about flows and images: Fréchet distance and its relatives, geometry, memorisation, cost."""

from __future__ import annotations

from .._support.names import lazily

_HOMES = {
    "CLIPImages": "text",
    "CLIPScore": "text",
    "ClassifierFeatures": "features",
    "EfficientNetLite0": "efficientnet",
    "FeatureExtractor": "base",
    "FeatureMetric": "base",
    "FirstAvailable": "choice",
    "FrechetExtrapolated": "extrapolated",
    "Inception": "inception",
    "InceptionScore": "fidelity",
    "KID": "fidelity",
    "LRConsistency": "super_resolution",
    "NetworkFeatures": "features",
    "OwnFeatures": "features",
    "PSNR": "paired",
    "PairedMetric": "paired",
    "Perceptual": "super_resolution",
    "PixelFeatures": "pixels",
    "PrecisionRecall": "fidelity",
    "PromptAccuracy": "text",
    "SSIM": "paired",
}
__all__ = [
    "KID",
    "PSNR",
    "SSIM",
    "CLIPImages",
    "CLIPScore",
    "ClassifierFeatures",
    "EfficientNetLite0",
    "FeatureExtractor",
    "FeatureMetric",
    "FirstAvailable",
    "FrechetExtrapolated",
    "Inception",
    "InceptionScore",
    "LRConsistency",
    "NetworkFeatures",
    "OwnFeatures",
    "PairedMetric",
    "Perceptual",
    "PixelFeatures",
    "PrecisionRecall",
    "PromptAccuracy",
]

__getattr__ = lazily(__name__, _HOMES)  # extractors bring torch-fidelity and networks
