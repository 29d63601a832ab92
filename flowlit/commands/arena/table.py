"""The table of a comparison as text."""

from __future__ import annotations

from ..._support.formatting import aligned, number_or_dash
from .record import Arena, Row

HEADER = ("method", "solver", "parameters", "NFE", "distance", "seeds")
LEFT = 2
COST = ("with gradient", "without", "hours", "processor h", "images/s")


def format_table(arena: Arena, markdown: bool = False, nfe: int | None = None) -> str:
    """Return the table, with the protocol of the distances above it; for a document in Markdown.

    Args:
        arena: the comparison.
        markdown: as in a document.
        nfe: of the rows; None is all.
    """
    rows = cells(arena, nfe)
    lines = _markdown(rows) if markdown else aligned(rows, LEFT)
    return "\n".join([caption(arena), "", *lines])


def cells(arena: Arena, nfe: int | None = None) -> list[list[str]]:
    """Return the rows of an NFE, or all, as text, the header first; the first ``LEFT`` columns are words."""
    optional = ("extrapolated", "kernel")
    extra = [name for name in optional if any(getattr(row, name) is not None for row in arena.rows)]
    return [[*HEADER, *extra, *COST], *(_cells(row, extra) for row in arena.rows if nfe in (None, row.nfe))]


def _cells(row: Row, extra: list[str]) -> list[str]:
    spread = "" if row.spread is None else f" ± {row.spread:.2g}"
    return [
        row.name + " *" * row.off_budget,
        row.solver,
        f"{row.parameters:,}",
        f"{row.nfe:.4g}",
        f"{row.distance:.4g}{spread}",
        str(len(row.seeds)),
        *(number_or_dash(getattr(row, name), ".4g") for name in extra),
        number_or_dash(row.with_gradient, ",.0f"),
        number_or_dash(row.without_gradient, ",.0f"),
        f"{row.hours:.2f}",
        number_or_dash(row.processor_hours, ".2f"),
        number_or_dash(row.images_per_s, ",.0f"),
    ]


def caption(arena: Arena) -> str:
    """Return the protocol of the distances in words."""
    protocol = arena.protocol
    images = "" if protocol.images is None else f" of {protocol.images:,} images"
    real = "" if protocol.reference_images is None else f" against {protocol.reference_images:,} real ones"
    return f"Fréchet distance{images}{real} in {protocol.features} features; evaluations in training"


def _markdown(cells: list[list[str]]) -> list[str]:
    """Return rows of a Markdown table, numbers to the right.

    >>> print(*_markdown([["a", "b", "n"], ["x", "y", "1"]]), sep="\\n")
    | a | b | n |
    |---|---|---:|
    | x | y | 1 |
    """
    rule = "|---|---" + "|---:" * (len(cells[0]) - 2) + "|"
    first, *others = [f"| {' | '.join(row)} |" for row in cells]
    return [first, rule, *others]
