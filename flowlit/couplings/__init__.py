"""Joint laws of (noise, image): independent, simulated on the fly, or cached on disk."""

from __future__ import annotations

from importlib import import_module
from typing import Any

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


def __getattr__(name: str) -> Any:
    """Import torch only when something of it is needed: ``flowlit couplings info`` is instant."""
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
