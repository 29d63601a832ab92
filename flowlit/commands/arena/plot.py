"""The picture of a comparison: distance over the cost of training, over NFE, and over size."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..._support.formatting import in_figure, number_axes
from .record import Arena, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 1 << 12
"""NFE up to which there are ticks."""

MARKERS = "osD^vP"
"""One for each ten methods, which is as many as there are colours."""

Place = Callable[[Row], float | None]


def plot(arena: Arena) -> Figure:
    """Draw three panels, a colour and marker for each method; bars are standard deviations over seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(18, 5), dpi=110, layout="constrained")
    panels = figure.subplots(1, 3)
    places: list[tuple[str, Place]] = [
        ("million evaluations in training, with and without gradient", _trained),
        ("NFE", lambda row: row.nfe),
        ("thousand parameters", lambda row: row.parameters / 1e3),
    ]
    methods = dict.fromkeys(row.method for row in arena.rows)
    for axes, (label, place) in zip(panels, places, strict=True):
        for i, method in enumerate(methods):
            rows = [row for row in arena.rows if row.method == method]
            form = MARKERS[i // 10 % len(MARKERS)] + ("-" if label == "NFE" else "")
            _draw(axes, rows, place, f"C{i % 10}", form)
        features = in_figure(arena.protocol.features)
        axes.set(xlabel=label, ylabel=f"Fréchet distance ({features})", xscale="log", yscale="log")
        number_axes(axes)
    _number_by_two(panels[1], [row.nfe for row in arena.rows])
    panels[1].legend(fontsize=8)
    return figure


def _trained(row: Row) -> float | None:
    if row.with_gradient is None or row.without_gradient is None:
        return None
    return (row.with_gradient + row.without_gradient) / 1e6


def _draw(axes: Axes, rows: list[Row], place: Place, colour: str, form: str) -> None:
    """Draw the points of a method, and a line along each of its models."""
    label = in_figure(rows[0].method if any(rows[0].seeds) else rows[0].name)
    for stage in dict.fromkeys(row.stage for row in rows):
        points = [(place(row), row) for row in rows if row.stage == stage]
        known = sorted((x, row.distance, row.spread or 0.0) for x, row in points if x is not None)
        if known:
            x, y, bars = zip(*known, strict=True)
            axes.errorbar(x, y, bars, label=label, color=colour, fmt=form, capsize=2)
            label = ""


def _number_by_two(axes: Axes, values: list[float]) -> None:
    """Have ticks at powers of two, and nowhere else."""
    axes.set_xscale("log", base=2)
    last = round(min(MOST, max(1, *values)))
    ticks = [1 << power for power in range(last.bit_length())]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
