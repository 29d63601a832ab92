"""flowlit: small, one-step image generators by rectified flow, annealing reflow and flow-guided distillation."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["Generator", "load"]
MODULES = (
    "callbacks",
    "couplings",
    "diffusions",
    "distances",
    "features",
    "images",
    "modules",
    "multistep",
    "networks",
    "objectives",
    "solvers",
)


def __getattr__(name: str) -> Any:
    """Import torch only when something of it is asked for, so that ``flowlit --help`` is instant."""
    if name in __all__:
        from . import generator

        return getattr(generator, name)
    if name in MODULES:
        return import_module(f"flowlit.{name}")
    raise AttributeError(f"module 'flowlit' has no attribute {name!r}")
