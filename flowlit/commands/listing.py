"""``flowlit list``: what a YAML can name, a line for each."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module

from .._support.suggestions import did_you_mean
from ..errors import FlowlitError
from .init import shipped

KINDS = {
    "networks": ("networks", "torch.nn.Module"),
    "objectives": ("objectives", "flowlit.types.Objective"),
    "score_distillation": ("objectives.score_distillation", "flowlit.types.Objective"),
    "flow_maps": ("objectives.flow_maps", "flowlit.types.Objective"),
    "intervals": ("objectives.intervals", "flowlit.objectives.intervals.IntervalDistribution"),
    "times": ("objectives.times", "flowlit.types.TimeDistribution"),
    "weights": ("objectives.weights", "flowlit.types.LossWeighting"),
    "distances": ("objectives.distances", "flowlit.types.Distance"),
    "rewards": ("objectives.rewards", "flowlit.objectives.rewards.Reward"),
    "solvers": ("solvers", "flowlit.types.Solver"),
    "grids": ("solvers.grids", "flowlit.solvers.grids.TimeGrid"),
    "strategies": ("solvers.search", "flowlit.solvers.search.Strategy"),
    "schedules": ("schedules", "builtins.object"),
    "averages": ("schedules.averages", "flowlit.types.EMAProfile"),
    "couplings": ("couplings", "builtins.object"),
    "images": ("data", "flowlit.types.ImageDataset"),
    "codecs": ("data", "flowlit.types.Codec"),
    "encoders": ("data", "flowlit.data.TextEncoder"),
    "metrics": ("metrics", "builtins.object"),
    "modules": ("modules", "builtins.object"),
    "callbacks": ("callbacks", "builtins.object"),
}
"""Where the classes of a kind are below ``flowlit``, and what they are."""


def listing(*kinds: str) -> Iterator[str]:
    """List what a YAML can name, each with its first sentence; without a kind, the kinds.

    Args:
        kinds: networks, solvers, callbacks, recipes …

    Raises:
        FlowlitError: if there is no such kind.
    """
    known = [*KINDS, "recipes"]
    if not kinds:
        yield from (f"flowlit list {kind}" for kind in known)
    unknown = [kind for kind in kinds if kind not in known]
    if unknown:
        expected = f"expected {', '.join(known)}{did_you_mean(unknown[0], known)}"
        raise FlowlitError(f"no kind {', '.join(unknown)}; {expected}")
    for kind in kinds:
        rows = _recipes() if kind == "recipes" else _classes(kind)
        width = max(len(name) for name, _ in rows)
        yield from (f"{name:<{width}}  {text}" for name, text in rows)


def _classes(kind: str) -> list[tuple[str, str]]:
    """Return the public path and the first sentence of every class of a kind that can be built."""
    place, base_path = KINDS[kind]
    module = import_module(f"flowlit.{place}")
    home, _, name = base_path.rpartition(".")
    base = getattr(import_module(home), name)
    names = getattr(module, "__all__", None) or sorted(vars(module))
    values = {f"{module.__name__}.{name}": getattr(module, name) for name in names}
    return [
        (path, _first_sentence(value))
        for path, value in values.items()
        if inspect.isclass(value) and issubclass(value, base) and not inspect.isabstract(value)
    ]


def class_paths() -> list[str]:
    """Return the public path of every class that a YAML can name, each kind's in the order of the list."""
    return list(dict.fromkeys(path for kind in KINDS for path, _ in _classes(kind)))


def _first_sentence(value: object) -> str:
    """Return the first sentence of a docstring; "et al." does not end one."""
    text = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())
    return re.split(r"(?<!et al)(?<!e\.g)\.(?: |$)", text)[0]


def _recipes() -> list[tuple[str, str]]:
    """Return each shipped recipe, and the first line of its header."""
    paths = sorted((shipped() / "experiments/recipes").glob("*.yaml"))
    return [(path.stem, path.read_text().partition("\n")[0].removeprefix("# ")) for path in paths]
