"""A hostile input, how it is tried, and what its error must say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from commandline import Outcome, in_process

from flowlit.errors import FlowlitError


class Row(NamedTuple):
    """``attempt(folder)`` raises a ``FlowlitError``, or returns the outcome of a command that is refused.

    ``words`` stand in the error.
    """

    name: str
    attempt: Callable[[Path], Any]
    words: tuple[str, ...]


def refusal(row: Row, folder: Path) -> str:
    """Return the one error that the input ends in; fails if it is accepted or ends in anything else."""
    try:
        outcome = row.attempt(folder)
    except FlowlitError as error:
        return str(error)
    assert isinstance(outcome, Outcome), f"accepted, and {outcome!r} came back"
    return outcome.error


def command(*words: object) -> Callable[[Path], Outcome]:
    """Return an attempt that runs a flowlit command; {} in a word stands for the test's folder."""
    return lambda folder: in_process(*(str(word).replace("{}", str(folder)) for word in words))
