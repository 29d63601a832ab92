"""The picture of costs: multiplications against recorded distances."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .costs import Model, kinds_of
from .files import write_atomically
from .recorded import Distance, Kind, Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw(models: Sequence[Model], into: Path) -> None:
    """Write the picture of ``plot``."""
    picture = io.BytesIO()
    plot(models).savefig(picture, format="png", dpi=120)
    write_atomically(into, picture.getvalue())


def plot(models: Sequence[Model]) -> Figure:
    """What generating an image costs, MACs times NFE, against recorded distances.

    One panel for each kind of distance, a colour for each network, a point for each report and solver; a line where a network
    without a record of that kind would begin, with one evaluation.
    """
    from matplotlib.figure import Figure

    kinds = kinds_of(models)
    panels: list[Kind | None] = [*kinds] or [None]
    figure = Figure(figsize=(6.5 * len(panels), 4.5), layout="constrained")
    for axes, kind in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        axes.set(xscale="log", yscale="log", xlabel="GMACs of one image: of one evaluation, attention included, times NFE")
        for i, model in enumerate(models):
            points = [
                (record, record.distances[kind]) for record in model.records if kind is not None and kind in record.distances
            ]
            _draw_points(axes, model, points, f"C{i}") if points else _draw_line(axes, model, f"C{i}")
        _number(axes)
        _entitle(axes, kind, kinds)
    return figure


def _draw_points(axes: Axes, model: Model, points: Sequence[tuple[Record, Distance]], colour: str) -> None:
    x = [model.macs.all / 1e9 * (record.nfe or 1) for record, _ in points]
    y = [distance.value for _, distance in points]
    spread = [distance.spread or math.nan for _, distance in points]
    axes.errorbar(x, y, spread, fmt="o", markersize=4, capsize=3, color=colour, label=model.name)
    for i, (record, _) in enumerate(points):
        axes.annotate(record.solver, (x[i], y[i]), fontsize=7, xytext=(4, 4), textcoords="offset points")


def _draw_line(axes: Axes, model: Model, colour: str) -> None:
    axes.axvline(model.macs.all / 1e9, color=colour, linestyle="--", linewidth=0.8)
    words = f" {model.name}: not recorded"
    axes.text(model.macs.all / 1e9, 0.02, words, rotation=90, fontsize=7, transform=axes.get_xaxis_transform())


def _number(axes: Axes) -> None:
    """Write numbers at every tick of both logarithmic axes, also where they span less than a power of ten."""
    from matplotlib.ticker import LogFormatter

    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(LogFormatter())
        axis.set_minor_formatter(LogFormatter())
    axes.grid(alpha=0.3)


def _entitle(axes: Axes, kind: Kind | None, kinds: Sequence[Kind]) -> None:
    if kind is None:
        axes.set_yticks([], minor=False)
        axes.set_yticks([], minor=True)
        axes.set(title="no distances recorded", ylabel="Fréchet distance")
    else:
        axes.set(title=kind.label(kinds), ylabel=kind.name)
        axes.legend(fontsize=8)
