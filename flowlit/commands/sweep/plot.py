"""The figure of a sweep: quality against the number of evaluations, or against guidance."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..._support.formatting import in_figure
from ...metrics.report import distance_features

NAMED = 16
"""Solvers at most whose points in the figure have names."""

AGREEMENT = ("prompt_accuracy_", "clip_score")
"""Beginnings of tags that say how well images fit their prompts, drawn against guidance."""


class Axis(NamedTuple):
    """The abscissa of all panels, and what joins points into a line."""

    key: str
    label: str
    line: str


EVALUATIONS = Axis("nfe", "NFE", "family")
GUIDANCE = Axis("guidance", "guidance", "guided")


def axis_of(rows: list[dict[str, Any]]) -> Axis:
    """Return what numbers are drawn against: guidance where a solver has several, else evaluations."""
    scales: dict[str, set[float]] = {}
    for row in rows:
        if "guidance" in row:
            scales.setdefault(row["guided"], set()).add(row["guidance"])
    return GUIDANCE if any(len(each) > 1 for each in scales.values()) else EVALUATIONS


def plot(rows: list[dict[str, Any]]) -> Any:
    """Draw every distance and error with its spread against NFE, one line for each family of solvers.

    Against guidance, one line for each solver inside, where there are several scales of one; with the
    agreement of images and prompts.
    """
    from matplotlib.figure import Figure

    axis = axis_of(rows)
    keys = dict.fromkeys(key for row in rows for key in row if not key.endswith("_spread"))
    names = [*filter(distance_features, keys), "endpoint_error"]
    if axis is GUIDANCE:
        names += [key for key in keys if key.startswith(AGREEMENT)]
    lines = list(dict.fromkeys(row[axis.line] for row in rows if axis.line in row))
    figure = Figure(figsize=(6 * len(names) + 3, 4.5 + 0.12 * len(lines)), dpi=120, layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for place, line in enumerate(lines):
            points = [row for row in rows if row.get(axis.line) == line and name in row and row["nfe"] > 0]
            _draw(axes, axis, name, sorted(points, key=lambda row: row[axis.key]), place, line)
            for row in points if len(rows) <= NAMED else []:
                at = (row[axis.key], row[name])
                axes.annotate(in_figure(row["solver"]), at, (3, 3), textcoords="offset points", fontsize=7)
        _finish(axes, axis, in_figure(name))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    return figure


def _draw(axes: Any, axis: Axis, name: str, points: list[dict[str, Any]], place: int, line: str) -> None:
    axes.errorbar(
        [row[axis.key] for row in points],
        [row[name] for row in points],
        [row.get(f"{name}_spread", 0.0) for row in points],
        color=f"C{place % 10}",
        marker="osD^v"[place // 10 % 5],
        markersize=4,
        capsize=2,
        label=in_figure(line),
    )


def _finish(axes: Any, axis: Axis, name: str) -> None:
    """Set scales and labels of a panel."""
    from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

    axes.set(xlabel=axis.label, ylabel=name, title=f"{name} against {axis.label}")
    axes.grid(alpha=0.3)
    if axis is EVALUATIONS:
        axes.set(xscale="log", yscale="log")
        axes.xaxis.set_major_locator(LogLocator(2))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_locator(NullLocator())
