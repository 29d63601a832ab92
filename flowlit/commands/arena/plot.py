"""The picture of a comparison: distances in order, and over the cost of training, NFE, and size."""

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

MANY = 30
"""Names from which on they are written small."""

Place = Callable[[Row], float | None]


def _trained(row: Row) -> float | None:
    if row.with_gradient is None or row.without_gradient is None:
        return None
    return (row.with_gradient + row.without_gradient) / 1e6


PANELS: tuple[tuple[str, Place], ...] = (
    ("million evaluations in training, with and without gradient", _trained),
    ("NFE", lambda row: row.nfe),
    ("thousand parameters", lambda row: row.parameters / 1e3),
)


def plot(arena: Arena) -> Figure:
    """Draw four panels, a colour and marker for each method; bars are standard deviations over seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 10), dpi=110, layout="constrained")
    ranked, *others = figure.subplots(2, 2).flat
    methods = list(dict.fromkeys(row.method for row in arena.rows))
    looks = {method: (f"C{i % 10}", MARKERS[i // 10 % len(MARKERS)]) for i, method in enumerate(methods)}
    features = in_figure(arena.protocol.features)
    for axes, (label, place) in zip(others, PANELS, strict=True):
        for method in methods:
            rows = [row for row in arena.rows if row.method == method]
            colour, marker = looks[method]
            _draw(axes, rows, place, colour, marker + ("-" if label == "NFE" else ""))
        axes.set(xlabel=label, ylabel=f"Fréchet distance ({features})", xscale="log", yscale="log")
        number_axes(axes)
    _rank(ranked, arena.rows, looks)
    ranked.set_xlabel(f"Fréchet distance ({features})")
    _number_by_two(others[1], [row.nfe for row in arena.rows])
    return figure


def _rank(axes: Axes, rows: list[Row], looks: dict[str, tuple[str, str]]) -> None:
    """Draw the distance in fewest evaluations of each model, the least on top; names are the legend."""
    fewest = {row.name: row for row in sorted(rows, key=lambda row: (row.nfe, row.distance), reverse=True)}
    shown = sorted(fewest.values(), key=lambda row: row.distance, reverse=True)
    for y, row in enumerate(shown):
        colour, marker = looks[row.method]
        axes.errorbar(row.distance, y, xerr=row.spread or 0.0, color=colour, fmt=marker, capsize=2)
    best = min(rows, key=lambda row: row.distance)
    axes.axvline(best.distance, color=looks[best.method][0], linestyle=":")
    axes.annotate(f" {in_figure(best.name)}, NFE {best.nfe:.3g}", (best.distance, 0), fontsize=9)
    axes.set(xscale="log", title="in fewest evaluations (their number)")
    number_axes(axes)
    axes.yaxis.minorticks_off()
    axes.set_yticks(range(len(shown)), [f"{in_figure(row.name)} ({row.nfe:g})" for row in shown])
    axes.tick_params(axis="y", labelsize=9 if len(shown) < MANY else 6)


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
