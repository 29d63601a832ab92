"""Suggestions for misspelt names."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

LIKENESS = 0.65
"""Of 1, from which on a name is offered."""


def closest(word: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like a word; None if none is.

    Case does not count, nor whether it is - or _; a name that only begins so is offered, too.

    >>> closest("UNett", ["ADM", "UNet"]), closest("--seed", ["--seed_everything"]), closest("x", ["UNet"])
    ('UNet', '--seed_everything', None)
    """
    if not word:
        return None
    plain = {_plain(name): name for name in known}
    beginning = sorted((name for name in plain if name.startswith(_plain(word))), key=len)
    likely = get_close_matches(_plain(word), plain, 1, LIKENESS) or beginning
    return plain[likely[0]] if likely else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of an error: "; did you mean UNet?", or nothing if no known name is like the word."""
    name = closest(word, known)
    return f"; did you mean {name}?" if name is not None else ""


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")
