"""The picture of a search: scores as they came, and the times of the best."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from ..._support.formatting import in_figure
from ...solvers.search.base import Record, best

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .objective import Objective

SHOWN = 40
"""Schedules whose times are drawn, at most."""


def plot(records: Sequence[Record], scores: Sequence[Any], objective: Objective) -> Figure:
    """Draw all scores in their order, with known solvers as lines, and the times of the best schedules."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_scores(left, records, scores, objective)
    _draw_times(right, records)
    return figure


def _draw_scores(axes: Axes, records: Sequence[Record], scores: Sequence[Any], objective: Objective) -> None:
    sign = objective.sign
    known = [(i, each.generation, each.score) for i, each in enumerate(records) if each.score is not None]
    points = [(i, generation, sign * score) for i, generation, score in known]
    better = min if sign > 0 else max
    places = [i for i, _, _ in points]
    axes.scatter(places, [s for *_, s in points], s=6, c=[g for _, g, _ in points], cmap="viridis")
    axes.plot(places, list(accumulate((s for *_, s in points), better)), color="C3", label="best so far")
    for i, score in enumerate(scores):
        if score.held_out is None:
            continue
        if score.name.startswith("searched"):
            end = len(records) - 1
            label = "best, held-out noise" if i == 0 else None
            axes.plot([end], [score.held_out], "*" if i == 0 else ".", color="C3", label=label, markersize=9)
        else:
            label = in_figure(f"{score.name}, held out")
            axes.axhline(score.held_out, color=f"C{i % 10}", linewidth=0.8, linestyle="--", label=label)
    low = min([s for *_, s in points], default=1.0)
    axes.set(xlabel="schedules tried", ylabel=in_figure(objective.name), title="scores (colour: generation)")
    if low > 0 and sign > 0:
        axes.set(yscale="log", ylim=(0.7 * low, 40 * low))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="upper right")


def _draw_times(axes: Axes, records: Sequence[Record]) -> None:
    for rank, record in enumerate(best(records, SHOWN)):
        candidate = record.candidate
        orders = [choice.order for choice in candidate.choices]
        axes.plot(candidate.times, [rank] * len(candidate.times), color="0.85", linewidth=0.8, zorder=1)
        axes.scatter(
            candidate.times[:-1], [rank] * len(orders), s=14, c=[f"C{o - 1}" for o in orders], zorder=2
        )
    for order in sorted({c.order for r in best(records, SHOWN) for c in r.candidate.choices}):
        axes.scatter([], [], s=14, color=f"C{order - 1}", label=f"order {order}")
    axes.invert_yaxis()
    axes.set(xlabel="t, from noise to data", ylabel="rank", title="evaluations of the best")
    axes.legend(fontsize=8)
