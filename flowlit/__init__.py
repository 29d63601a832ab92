"""flowlit: small, one-step image generators by rectified flow, annealing reflow and flow-guided
distillation.

``flowlit.load(path)`` returns the ``Generator`` of a run or a checkpoint: ``generator.sample(100, seed=7)``
makes images, and ``generator.grid(100)`` a picture of them. The packages hold what a YAML can name; ``flowlit
list`` prints it with a line for each. See docs/python.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ._version import __version__ as __version__

__all__ = ["Generator", "grid", "load", "pil"]
PACKAGES = (
    "callbacks",
    "couplings",
    "data",
    "generators",
    "metrics",
    "modules",
    "networks",
    "objectives",
    "paths",
    "schedules",
    "solvers",
)


def __dir__() -> list[str]:
    return sorted([*__all__, *PACKAGES, "errors", "rng", "types", "__version__"])


def __getattr__(name: str) -> Any:
    """Import a package at its first use: ``flowlit --help`` is instant, without torch."""
    if name in __all__:
        return getattr(import_module("flowlit.generators"), name)
    if name in PACKAGES:
        return import_module(f"flowlit.{name}")
    from ._support.names import MOVED, MovedModule

    if name in MOVED:
        return MovedModule(name)
    raise AttributeError(f"module 'flowlit' has no attribute {name!r}")
