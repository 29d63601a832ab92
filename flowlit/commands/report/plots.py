"""Plots as SVG inside addresses: what loads them needs no network, and nothing in them can run."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..._support.formatting import in_figure, number_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 400
"""Of a line; longer ones become means of neighbours."""

DASHES = {"solid": "", "dashed": "6 3", "dotted": "2 2", "dashdot": "6 2 2 2"}
"""Styles of lines, and what they are in SVG."""

RATIO = 20.0
"""Between the largest number and the smallest, from which on an axis is logarithmic."""


class Line(NamedTuple):
    """A line of a plot; ``place`` decides about its colour and dashes."""

    place: int
    points: list[tuple[float, float]]
    labels: list[str] = []
    """Of the points."""


def look(place: int) -> tuple[str, str]:
    """Return colour and style of a line by its place.

    >>> look(0), look(11)
    (('#1f77b4', 'solid'), ('#ff7f0e', 'dashed'))
    """
    colours = "1f77b4 ff7f0e 2ca02c d62728 9467bd 8c564b e377c2 7f7f7f bcbd22 17becf".split()  # noqa: SIM905
    return f"#{colours[place % len(colours)]}", list(DASHES)[place // len(colours) % len(DASHES)]


def draw_curves(title: str, lines: Sequence[Line], ground: bool = False) -> str:
    """Draw numbers over steps; return the address of the picture.

    Args:
        title: above the plot.
        lines: points (step, number).
        ground: the axis begins at 0.
    """
    figure, axes = _axes(title)
    for line in lines:
        colour, style = look(line.place)
        x, y = zip(*thinned(line.points), strict=True)
        mark = "o" if len(x) < 4 else ""
        axes.plot(x, y, color=colour, linestyle=style, linewidth=1.2, marker=mark, markersize=3)
    values = [y for line in lines for _, y in line.points]
    if min(values) > 0 and max(values) > RATIO * min(values) and not ground:
        axes.set_yscale("log")
    elif ground:
        axes.set_ylim(bottom=0)
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    return embedded(figure)


def draw_costs(title: str, cost: str, lines: Sequence[Line]) -> str:
    """Draw distances over a cost on logarithmic axes, a word at each point; return the picture's address."""
    figure, axes = _axes(title)
    for line in lines:
        colour, style = look(line.place)
        x, y = zip(*line.points, strict=True)
        axes.plot(x, y, color=colour, linestyle=style, linewidth=1, marker="o", markersize=4)
        for (a, b), label in zip(line.points, line.labels, strict=True):
            words = in_figure(label[:24])
            axes.annotate(words, (a, b), fontsize=7, xytext=(3, 3), textcoords="offset points")
    axes.set(xscale="log", yscale="log", xlabel=cost)
    axes.margins(0.15)
    number_axes(axes)
    return embedded(figure)


def _axes(title: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4, 3.1), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(in_figure(title[:80]), fontsize=10)
    axes.tick_params(labelsize=8, which="both")
    axes.patch.set_alpha(0)
    return figure, axes


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return means of neighbouring points, so many that there are at most ``POINTS``.

    >>> thinned([(0, 1.0), (1, 3.0)]), len(thinned([(i, 0.0) for i in range(1001)]))
    ([(0, 1.0), (1, 3.0)], 334)
    """
    step = math.ceil(len(points) / POINTS)
    if step < 2:
        return list(points)
    parts = [points[i : i + step] for i in range(0, len(points), step)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def embedded(figure: Figure) -> str:
    """Return the address of a figure, which is the same for the same figure."""
    from matplotlib import rc_context

    data = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "flowlit"}):
        figure.savefig(data, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return address(data.getvalue(), "svg+xml")


def address(content: bytes, kind: str) -> str:
    """Return the content of a picture as an address."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
