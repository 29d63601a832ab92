"""One line of text for an object: its class, and the arguments that it was made with."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import Parameter, signature
from pathlib import PurePath
from reprlib import Repr
from typing import Any, TypeVar

LONGEST = 100
"""Characters of one argument at most."""

Record = TypeVar("Record", bound=tuple[Any, ...])

_short = Repr()
_short.maxstring = _short.maxother = LONGEST


def one_line(thing: Any) -> str:
    """Return the class of an object and those of its arguments that are not the defaults.

    Arguments are read from attributes of their names; properties, which may read a disk, are not.

    >>> class Blur:
    ...     def __init__(self, width, passes=1):
    ...         self.width = width
    ...         self.passes = passes
    >>> one_line(Blur(0.5)), one_line(Blur(0.5, 3))
    ('Blur(width=0.5)', 'Blur(width=0.5, passes=3)')
    """
    attributes = {**vars(thing), **vars(thing).get("_modules", {})}
    parameters = signature(type(thing)).parameters.values()
    given = {
        parameter.name: attributes[parameter.name]
        for parameter in parameters
        if parameter.name in attributes and not _is_default(attributes[parameter.name], parameter)
    }
    return _call(thing, given)


class OneLine:
    """A base class, before others, whose subclasses print as one line."""

    def __repr__(self) -> str:
        return one_line(self)


def short_record(kind: type[Record]) -> type[Record]:
    """Have named tuples of a class print as one line, without the values of tensors."""
    kind.__repr__ = lambda record: _call(record, record._asdict())  # type: ignore
    return kind


def _call(thing: Any, arguments: Mapping[str, Any]) -> str:
    inside = ", ".join(f"{name}={brief(value)}" for name, value in arguments.items())
    return f"{type(thing).__name__}({inside})"


def brief(value: Any) -> str:
    """Return a value in one short line; of tensors and arrays their shape alone.

    >>> brief([1, "two"]), brief("a" * 300) == "a" * 300
    ("[1, 'two']", False)
    """
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{type(value).__name__} {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {brief(item)}' for key, item in value.items())}}}"
    if hasattr(value, "__qualname__"):
        return value.__qualname__
    text = _short.repr(str(value) if isinstance(value, PurePath) else value)
    return text if text.isprintable() and not text.startswith("<") else f"{type(value).__name__}(…)"


def _is_default(value: Any, parameter: Parameter) -> bool:
    plain = value is None or isinstance(value, (bool, int, float, str, tuple))
    return value is parameter.default or (plain and value == parameter.default)
