"""Whole numbers of the Python interface: taken in any form that is one, and refused otherwise."""

from __future__ import annotations

import reprlib
from typing import Any

from ..errors import FlowlitError
from ..ranges import as_whole as as_whole


def whole_number(value: Any, name: str, low: int = 0, high: int | None = None) -> int:
    """Return an int of a whole number in a range.

    Raises:
        FlowlitError: naming what was given and the range that was expected.
    """
    number = as_whole(value)
    if number is None or number < low or (high is not None and number > high):
        end = f"to {high}" if high is not None else "on"
        raise FlowlitError(f"{name} is {reprlib.repr(value)}; expected a whole number from {low} {end}")
    return number
