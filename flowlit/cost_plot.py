"""The picture of costs: multiplications against recorded distances."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .costs import Model, kinds_of
from .files import write_atomically
from .recorded import Distance, Kind

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


Points = list[tuple[Model, Distance]]


def draw(models: Sequence[Model], into: Path) -> None:
    """Write the picture of ``plot``."""
    picture = io.BytesIO()
    plot(models).savefig(picture, format="png", dpi=120)
    write_atomically(into, picture.getvalue())


def plot(models: Sequence[Model]) -> Figure:
    """MACs against recorded distances, one panel for each kind; a line where a network has no such record."""
    from matplotlib.figure import Figure

    kinds = kinds_of(models)
    panels: list[Kind | None] = [*kinds] or [None]
    figure = Figure(figsize=(6.5 * len(panels), 4.5), layout="constrained")
    for axes, kind in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        axes.set(xscale="log", yscale="log", xlabel="GMACs of one evaluation for one image, attention included")
        points = _points(models, kind)
        recorded = [id(model) for rows in points.values() for model, _ in rows]
        for model in models:
            if id(model) not in recorded:
                _draw_line(axes, model)
        for solver, rows in points.items():
            _draw_points(axes, solver, rows)
        _number(axes)
        _entitle(axes, kind, kinds)
    return figure


def _points(models: Sequence[Model], kind: Kind | None) -> dict[str, Points]:
    """Networks with their distances of that kind, by solver."""
    points: dict[str, Points] = {}
    for model in models:
        for record in model.records:
            if kind is not None and kind in record.distances:
                points.setdefault(record.solver, []).append((model, record.distances[kind]))
    return points


def _draw_points(axes: Axes, solver: str, rows: Points) -> None:
    x, y = [_gigamacs(model) for model, _ in rows], [distance.value for _, distance in rows]
    axes.errorbar(x, y, [distance.spread or math.nan for _, distance in rows], fmt="o", capsize=3, label=solver)
    for i, (model, _) in enumerate(rows):
        axes.annotate(model.name, (x[i], y[i]), fontsize=7, xytext=(4, 4), textcoords="offset points")


def _draw_line(axes: Axes, model: Model) -> None:
    """Where a network without such a record would be."""
    axes.axvline(_gigamacs(model), color="grey", linestyle="--", linewidth=0.8)
    words = f" {model.name}: not recorded"
    axes.text(_gigamacs(model), 0.02, words, rotation=90, fontsize=7, transform=axes.get_xaxis_transform())


def _gigamacs(model: Model) -> float:
    return model.macs.all / 1e9


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
        axes.legend(title="solver")
