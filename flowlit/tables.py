"""Tables that line up."""

from __future__ import annotations


def aligned(rows: list[list[str]]) -> list[str]:
    """Align columns, the first to the left and the others to the right, and rule off the first row.

    >>> print(*aligned([["solver", "NFE"], ["rk45", "20.1"]]), sep="\\n")
    solver   NFE
    ────────────
    rk45    20.1
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))) for row in rows
    ]
    return [lines[0], "─" * len(lines[0]), *lines[1:]]
