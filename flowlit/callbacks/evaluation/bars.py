"""Numbers of an evaluation as bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..._support.formatting import in_figure
from .report import place

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BETTER = {
    "lower is better": ("fid", "frechet_", "kid", "kernel_distance_", "nfe", "endpoint_error"),
    "higher is better": ("inception_score", "classifier_score_", "precision", "recall", "images_per_s"),
}
"""Beginnings of tags."""


def by_solver(metrics: Mapping[str, float], solvers: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return measure -> solver -> number, distances first; measures of halves are left out.

    >>> by_solver({"nfe/a": 1.0, "fid/a": 2.0, "fid_half/a": 3.0, "other": 4.0}, ["a", "b"])
    {'fid': {'a': 2.0}, 'nfe': {'a': 1.0}}
    """
    numbers: dict[str, dict[str, float]] = {}
    for tag, value in metrics.items():
        measure, _, solver = tag.rpartition("/")
        if solver in solvers and not measure.endswith("_half"):
            numbers.setdefault(measure, {})[solver] = value
    return {
        measure: {solver: numbers[measure][solver] for solver in solvers if solver in numbers[measure]}
        for measure in sorted(numbers, key=place)
    }


def draw(measures: Mapping[str, Mapping[str, float]], columns: int = 3) -> Figure:
    """Draw each measure as bars, one for each solver."""
    from matplotlib.figure import Figure  # not pyplot, which keeps figures and needs a display

    rows = -(-len(measures) // columns)
    most = max(len(values) for values in measures.values())
    size = (4 * columns, (1 + 0.3 * most) * rows)
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in panels[len(measures) :]:
        axes.set_axis_off()
    for axes, (measure, values) in zip(panels, measures.items(), strict=False):
        bars = axes.barh(list(map(in_figure, values)), list(values.values()))
        axes.bar_label(bars, fmt="%.4g", padding=3)
        axes.invert_yaxis()  # the first solver at the top
        axes.margins(x=0.25)
        which = next((text for text, tags in BETTER.items() if measure.startswith(tags)), None)
        name = in_figure(measure)
        axes.set_title(name if which is None else f"{name} ({which})", fontsize=10)
    return figure
