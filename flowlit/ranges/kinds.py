"""Types of numbers in a range, and of names, which also the command line and YAML hold to."""

from __future__ import annotations

import ast
import math
import operator
import re
import reprlib
from collections.abc import Callable
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any, TypeAlias

from jsonargparse.typing import register_type

_INT64 = 2**63


EXPECTED: dict[type, str] = {}
"""Texts of what each type expects, for messages."""


def as_whole(value: Any) -> int | None:
    """Return an int of a whole number, also of NumPy's and of a tensor (); None for anything else.

    >>> as_whole(3), as_whole(3.0), as_whole(True)
    (3, None, None)
    """
    if isinstance(value, bool) or "bool" in str(getattr(value, "dtype", "")):
        return None
    try:
        return operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        return None


def as_finite(value: Any) -> int | float | None:
    """Return a float, or an int, of a finite number, also of NumPy's; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    number = as_whole(value)
    try:
        return number if number is not None and math.isfinite(number) else _as_float(value)
    except OverflowError:
        return None


def _as_float(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def number(base: type, bounds: str, holds: Callable[[Any], bool]) -> Any:
    """Return a type of numbers, which is called to convert one. Its instances are plain ints and floats.

    Args:
        base: int or float; the latter takes ints, too.
        bounds: their text, for help and errors.
        holds: whether a number is within them.
    """
    convert = as_whole if base is int else as_finite
    expected = f"a {'whole' if base is int else 'finite'} number {bounds}".strip()

    def new(cls: type, value: Any) -> int | float:
        number = convert(value)
        if number is None or not holds(number):
            raise ValueError(f"found {reprlib.repr(value)}, expected {expected}")
        return number

    name = f"{base.__name__} {bounds}".strip()  # as help shows it
    return _registered(name, base, expected, new, lambda kind, value: base(kind(_literal(value))))


def _text(name: str, expected: str, pattern: str) -> Any:
    """Return a type of texts that match a pattern. Its instances are plain texts."""

    def new(cls: type, value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ValueError(f"found {reprlib.repr(value)}, expected {expected}")
        return str(value)

    return _registered(name, str, expected, new, lambda kind, value: kind(value))


def _registered(
    name: str, base: type, expected: str, new: Callable[..., Any], read: Callable[[Any, Any], Any]
) -> Any:
    """Create a type of that name, and teach jsonargparse to read its values."""
    kind = type(name, (base,), {"__new__": new, "__doc__": f"{expected.capitalize()}."})
    EXPECTED[kind] = expected
    register_type(kind, base, partial(read, kind))
    return kind


def _literal(text: Any) -> Any:
    """Return the number that a word of the command line stands for; other values as they are."""
    try:
        return ast.literal_eval(text) if isinstance(text, str) else text
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


if TYPE_CHECKING:
    Int: TypeAlias = int
    PositiveInt: TypeAlias = int
    NonNegativeInt: TypeAlias = int
    Seed: TypeAlias = int
    Float: TypeAlias = float
    PositiveFloat: TypeAlias = float
    NonNegativeFloat: TypeAlias = float
    Probability: TypeAlias = float
    Fraction: TypeAlias = float
    Share: TypeAlias = float
    Name: TypeAlias = str
else:
    Int = number(int, "", lambda value: -_INT64 <= value < _INT64)
    PositiveInt = number(int, "> 0", lambda value: 0 < value < _INT64)
    NonNegativeInt = number(int, ">= 0", lambda value: 0 <= value < _INT64)
    Seed = number(int, "in [0, 2**64)", lambda value: 0 <= value < 2**64)
    Float = number(float, "", lambda value: True)
    PositiveFloat = number(float, "> 0", lambda value: value > 0)
    NonNegativeFloat = number(float, ">= 0", lambda value: value >= 0)
    Probability = number(float, "in [0, 1]", lambda value: 0 <= value <= 1)
    Fraction = number(float, "in [0, 1)", lambda value: 0 <= value < 1)
    Share = number(float, "in (0, 1]", lambda value: 0 < value <= 1)
    Name = _text("name", "a name of up to 64 letters, digits, _ and -", r"[\w-]{1,64}")
