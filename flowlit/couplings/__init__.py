"""Joint laws of (noise, image): independent, simulated on the fly, or cached on disk."""

from __future__ import annotations

from .._support.names import lazily

_HOMES = {
    "Cached": "cached",
    "DegradedImages": "degraded",
    "Independent": "independent",
    "Mixed": "mixed",
    "NoisedImage": "super_resolution",
    "OptimalTransport": "transport",
    "PromptedImages": "prompted",
    "PromptedNoise": "prompted",
    "SeededNoise": "noise",
    "Simulated": "simulated",
    "SuperResolution": "super_resolution",
    "seeded_normal": "noise",
}
__all__ = [
    "Cached",
    "DegradedImages",
    "Independent",
    "Mixed",
    "NoisedImage",
    "OptimalTransport",
    "PromptedImages",
    "PromptedNoise",
    "SeededNoise",
    "Simulated",
    "SuperResolution",
    "seeded_normal",
]

__getattr__ = lazily(__name__, _HOMES)  # ``flowlit couplings info`` is instant, without torch
