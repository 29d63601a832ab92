"""Public names of classes, and the names that they had before.

Checkpoints, stores, snapshots and reports hold names of classes. They are written and compared as public
names, so that a class may move to another file, or get another name, without losing its files.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

MOVED: dict[str, tuple[str, ...]] = {
    "averages": ("schedules.averages",),
    "codecs": ("data.codecs",),
    "datamodule": ("modules.datamodule",),
    "diffusions": ("paths.diffusion", "types"),
    "distances": ("objectives.distances",),
    "draws": ("rng",),
    "features": ("metrics.features", "metrics.inception"),
    "images": ("data.images", "data.folders", "data.zips"),
    "multistep": ("solvers.multistep",),
    "networks.adapters": ("networks.wrappers.diffusion", "networks.wrappers.guidance"),
    "networks.edm": ("networks.wrappers.preconditioning",),
    "networks.layers": ("networks.layers", "networks.norm"),
    "networks.skeleton": ("networks.unet_base",),
    "networks.wrapped": ("networks.wrappers.base",),
    "path": ("paths.straight",),
    "times": ("objectives.times",),
    "weights": ("objectives.weights",),
}
"""Modules of before, and where their names are looked up now; both below ``flowlit``."""

RENAMED: dict[str, str] = {
    "callbacks.Graphs": "CUDAGraphs",
    "callbacks.Neighbours": "NearestNeighbours",
    "callbacks.Recompute": "ActivationCheckpointing",
    "callbacks.Signals": "SaveOnSignal",
}
"""Classes of before by their public path below ``flowlit``, and their names now, in the same package."""

ARGUMENTS: dict[str, dict[str, str]] = {"paths.VE": {"tells": "conditioning"}}
"""Arguments of before, by the public path of their class below ``flowlit``, and their names now."""

REMOVED = {"objectives.weights.One", "weights.One"}
"""Classes of before that are None now, by their path below ``flowlit``."""


class MovedModule:
    """Stand-in for a module of before: ``flowlit.images.Digits`` is looked up where it is now."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return resolve(f"flowlit.{self._name}.{name}")


def lazily(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a package that imports each name from its module at its first use."""

    def look_up(name: str) -> Any:
        if name in homes:
            return getattr(import_module(f"{package}.{homes[name]}"), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return look_up


def renamed(module: str, name: str) -> Any:
    """Return the class that had a name before, for the ``__getattr__`` of a package.

    Raises:
        AttributeError: if no class had it.
    """
    now = RENAMED.get(f"{module}.{name}".removeprefix("flowlit."))
    if now is None:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    return getattr(import_module(module), now)


def resolve(path: str) -> Any:
    """Import what a dotted path names, also by a name of before.

    Raises:
        ImportError: if there is no such module.
        AttributeError: if the module has no such name.
    """
    module, _, name = path.rpartition(".")
    below = module.removeprefix("flowlit.")
    places = [f"flowlit.{place}" for place in MOVED[below]] if below in MOVED else [module]
    for place in places[:-1]:
        candidate = import_module(place)
        if hasattr(candidate, name):
            return getattr(candidate, name)
    return getattr(import_module(places[-1]), name)


def public_path(thing: Any) -> str:
    """Return the shortest dotted path by which a class or a function can be imported.

    >>> from flowlit.solvers.adaptive import RK45
    >>> public_path(RK45)
    'flowlit.solvers.RK45'
    """
    module = thing.__module__
    name = thing.__qualname__
    parts = module.split(".")
    for end in range(1, len(parts)):
        prefix = ".".join(parts[:end])
        if getattr(sys.modules.get(prefix), name, None) is thing:
            return f"{prefix}.{name}"
    return f"{module}.{name}"


def current(path: str) -> str:
    """Return the public path of today for a stored path; the path itself if nothing here has that name.

    Only flowlit is imported for it: a stored name must not choose what runs.

    >>> current("flowlit.multistep.Adams")
    'flowlit.solvers.Adams'
    """
    module = path.rpartition(".")[0]
    if not (path.startswith("flowlit.") or module in sys.modules):
        return path
    try:
        return public_path(resolve(path))
    except (ImportError, AttributeError):
        return path


def in_current_names(data: Any) -> Any:
    """Return plain data with every name of a class as its public path of today, and arguments likewise.

    What describes a class that is gone becomes None.
    """
    if isinstance(data, dict):
        renewed = {key: in_current_names(value) for key, value in data.items()}
        path = renewed.get("class_path") or renewed.get("class")
        below = str(path).removeprefix("flowlit.")
        if below in REMOVED:
            return None
        arguments = ARGUMENTS.get(below, {})
        if arguments and isinstance(renewed.get("init_args"), dict):
            renewed["init_args"] = _renamed_keys(renewed["init_args"], arguments)
        return _renamed_keys(renewed, arguments)
    if isinstance(data, (list, tuple)):
        return [in_current_names(value) for value in data]
    return current(data) if isinstance(data, str) and _is_path(data) else data


def _renamed_keys(data: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {names.get(key, key): value for key, value in data.items()}


def _is_path(text: str) -> bool:
    parts = text.split(".")
    return len(parts) > 1 and all(part.isidentifier() for part in parts)
