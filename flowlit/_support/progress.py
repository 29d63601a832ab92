"""Progress: a bar on a terminal, and lines in a file."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from .formatting import duration

LINES = 20
"""Of a whole, at most, where a bar cannot move."""

EVERY = 10.0
"""Seconds between two of them, at least; what is over sooner leaves none."""


def is_terminal(stream: Any) -> bool:
    """Return whether a bar can move where a stream goes."""
    return bool(getattr(stream, "isatty", bool)())


class Bar(tqdm):
    """tqdm's bar where standard error is a terminal, elsewhere a line now and then.

    A bar that cannot move fills a file with copies of itself.
    """

    def __init__(self, iterable: Iterable[Any] | None = None, **options: Any):
        self._moves = is_terminal(sys.stderr)
        self._part = 0
        self._last = time.monotonic()
        super().__init__(iterable, **options, file=None if self._moves else io.StringIO())

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Draw the bar, or print a line if one is due."""
        if self._moves:
            super().display(msg, pos)
            return
        now = time.monotonic()
        part = int(LINES * self.n / self.total if self.total else self.n)
        if part > self._part and self.n != self.total and now - self._last >= EVERY:
            self._part = part
            self._last = now
            what = self.desc.removesuffix(": ").removesuffix(" DataLoader 0")  # Lightning's only one
            print(f"flowlit: {what}: {pace(self)}", file=sys.stderr, flush=True)


def pace(bar: Any) -> str:
    """Return in words how far a bar of tqdm is, how fast it goes, and the time left."""
    rate = (bar.n - bar.initial) / max(bar.format_dict["elapsed"], 1e-9)
    more = (bar.total or bar.n) - bar.n
    left = [f"{duration(more / rate)} left"] if rate and more > 0 else []
    total = f" of {bar.total:,}" if bar.total else ""
    unit = "" if bar.unit == "it" else bar.unit
    return ", ".join([f"{bar.n:,}{total}{unit}", f"{rate:.3g} a second", *left])
