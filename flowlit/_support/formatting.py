"""Tables, sizes and durations as text, and numbers in figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def aligned(rows: list[list[str]], left: int = 1) -> list[str]:
    """Align columns, the first ones to the left and the others to the right, and rule off the first row.

    >>> print(*aligned([["solver", "NFE"], ["rk45", "20.1"]]), sep="\\n")
    solver   NFE
    ────────────
    rk45    20.1
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        first = [cell.ljust(width) for cell, width in zip(row[:left], widths[:left], strict=True)]
        others = [cell.rjust(width) for cell, width in zip(row[left:], widths[left:], strict=True)]
        lines.append("  ".join([*first, *others]))
    return [lines[0], "─" * len(lines[0]), *lines[1:]]


def number_or_dash(value: float | None, form: str) -> str:
    """Write a number in a format; a dash where there is none.

    >>> number_or_dash(1200, ",.0f"), number_or_dash(None, ".2f")
    ('1,200', '–')
    """
    return "–" if value is None else f"{value:{form}}"


def size(count: float) -> str:
    """Write a number of bytes in decimal units.

    >>> size(999), size(1_200_000), size(25e9)
    ('999 B', '1.2 MB', '25 GB')
    """
    units = ["B", "kB", "MB", "GB", "TB"]
    while count >= 999.5 and len(units) > 1:
        count = count / 1000
        units = units[1:]
    return f"{count:.0f} {units[0]}" if count >= 9.95 or units[0] == "B" else f"{count:.1f} {units[0]}"


def duration(seconds: float) -> str:
    """Write seconds in the unit that fits.

    >>> duration(0.0042), duration(75), duration(36_000)
    ('4.2 ms', '75 s', '10.0 h')
    """
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 72 * 3600 else f"{seconds / 86400:.1f} days"


def in_figure(name: str) -> str:
    """Return a name for matplotlib, which takes $x$ for TeX and leaves _x out of legends, as it stands.

    >>> in_figure("a$b$"), in_figure("_mine"), in_figure("a\\nb\\udcff")
    ('a\\\\$b\\\\$', ' _mine', 'a\\\\nb\\\\udcff')
    """
    signs = (sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in name)
    text = "".join(signs).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def number_axes(axes: Axes) -> None:
    """Write decimals at the ticks of logarithmic axes: between powers of ten, too, where these are few."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    decimal = FuncFormatter(lambda value, _: f"{float(f'{value:.3g}'):g}")
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(LogLocator(subs=range(2, 10) if high < 4 * low else (2, 3, 5)))
        axis.set_minor_formatter(decimal if high < 30 * low else NullFormatter())
    axes.grid(alpha=0.3)
