"""The picture of costs: multiplications against recorded distances."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..._support.formatting import in_figure, number_axes
from ...metrics.report import Estimate, Kind, Record
from ...types import evaluations_of
from .models import Model, kinds_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot(models: Sequence[Model]) -> Figure:
    """Draw what generating an image costs, MACs times NFE, against recorded distances.

    One panel for each kind of distance, a colour for each network, a point for each report and solver; a line
    where a network without a record of that kind would begin, with one evaluation.
    """
    from matplotlib.figure import Figure

    kinds = kinds_of(models)
    panels: list[Kind | None] = [*kinds] or [None]
    figure = Figure(figsize=(6.5 * len(panels), 4.5), layout="constrained")
    for axes, kind in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="GMACs of one image: of one evaluation, attention included, times NFE",
        )
        for i, model in enumerate(models):
            points = [
                (record, record.distances[kind])
                for record in model.records
                if kind is not None and kind in record.distances
            ]
            _draw_points(axes, model, points, f"C{i}") if points else _draw_line(axes, model, f"C{i}")
        number_axes(axes)
        _entitle(axes, kind, kinds)
    return figure


def _draw_points(axes: Axes, model: Model, points: Sequence[tuple[Record, Estimate]], colour: str) -> None:
    x = [_giga(model) * (record.nfe or 1) for record, _ in points]
    y = [distance.value for _, distance in points]
    spread = [distance.spread or math.nan for _, distance in points]
    axes.errorbar(x, y, spread, fmt="o", markersize=4, capsize=3, color=colour, label=in_figure(model.name))
    solvers = [record.solver for record, _ in points]
    for i, (record, _) in enumerate(points):
        where = f", {Path(record.file).parent.name}" if solvers.count(record.solver) > 1 else ""
        words = in_figure(record.solver + where)
        axes.annotate(words, (x[i], y[i]), fontsize=7, xytext=(4, 4), textcoords="offset points")
    axes.margins(x=0.2)


def _draw_line(axes: Axes, model: Model, colour: str) -> None:
    axes.axvline(_giga(model), color=colour, linestyle="--", linewidth=0.8)
    words = f" {in_figure(model.name)}: not recorded"
    axes.text(_giga(model), 0.02, words, rotation=90, fontsize=7, transform=axes.get_xaxis_transform())


def _giga(model: Model) -> float:
    """GMACs of one evaluation of the network; a guided one is evaluated twice a call, and NFE counts that."""
    return model.macs.all / 1e9 / evaluations_of(model.network)


def _entitle(axes: Axes, kind: Kind | None, kinds: Sequence[Kind]) -> None:
    if kind is None:
        axes.set_yticks([], minor=False)
        axes.set_yticks([], minor=True)
        axes.set(title="no distances recorded", ylabel="Fréchet distance")
    else:
        axes.set(title=in_figure(kind.label(kinds)), ylabel=in_figure(kind.name))
        axes.legend(fontsize=8)
