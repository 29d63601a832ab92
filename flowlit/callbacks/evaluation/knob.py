"""The curve from fidelity to realism: numbers of ``OneStep`` solvers over their t."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..._support.formatting import in_figure
from ...metrics.report import distance_features
from ...solvers import Euler, OneStep
from ...types import Solver

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curve = list[tuple[float, float, float]]
"""(t, value, standard error), by t."""


def curves(
    solvers: Mapping[str, Solver], metrics: Mapping[str, float], spread: Mapping[str, float], names: list[str]
) -> dict[str, Curve]:
    """Return the curve of each named number, and of each Fréchet distance, over t.

    ``Euler(1)`` is t = 0. Empty without a ``OneStep`` solver; numbers that a solver lacks are left out.

    Args:
        solvers: by name.
        metrics: by tag, ``<number>/<solver>``.
        spread: standard errors by tag, where they are known.
        names: of numbers.
    """
    steps = {name: each.t for name, each in solvers.items() if isinstance(each, OneStep)}
    if not steps:
        return {}
    starts = {name: 0.0 for name, each in solvers.items() if each == Euler(1) and 0 not in steps.values()}
    knobs = sorted((t, name) for name, t in (steps | starts).items())
    measured = dict.fromkeys(tag.rpartition("/")[0] for tag in metrics)
    drawn = {}
    for name in [*names, *filter(distance_features, measured)]:
        tags = [(t, f"{name}/{solver}") for t, solver in knobs]
        if all(tag in metrics for _, tag in tags):
            drawn[name] = [(t, metrics[tag], spread.get(tag, 0.0)) for t, tag in tags]
    return drawn


def draw_curves(drawn: Mapping[str, Curve], titles: Mapping[str, str]) -> Figure:
    """Draw a panel for each curve over t; bars are standard errors."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(drawn), 4), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(drawn), squeeze=False)[0]
    for axes, (name, curve) in zip(panels, drawn.items(), strict=True):
        t, values, errors = zip(*curve, strict=True)
        axes.errorbar(t, values, errors, fmt="o-", capsize=2)
        axes.set(xlabel="t, from fidelity to realism", title=in_figure(titles.get(name, name)))
        axes.grid(alpha=0.3)
    return figure
