"""Joint laws of (noise, image): independent, simulated on the fly, or cached on disk."""

from __future__ import annotations

from .._support.names import lazily

_HOMES = {
    "Cached": "cached",
    "Independent": "independent",
    "Mixed": "mixed",
    "OptimalTransport": "transport",
    "SeededNoise": "noise",
    "Simulated": "simulated",
    "seeded_normal": "noise",
}
__all__ = [
    "Cached",
    "Independent",
    "Mixed",
    "OptimalTransport",
    "SeededNoise",
    "Simulated",
    "seeded_normal",
]

__getattr__ = lazily(__name__, _HOMES)  # ``flowlit couplings info`` is instant, without torch
