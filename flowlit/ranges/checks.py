"""The check that an annotation stands for."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from ..errors import FlowlitError
from .kinds import EXPECTED


class Check(NamedTuple):
    """Text of what is expected of an argument, and its conversion to the value that is used."""

    expected: str
    convert: Callable[[Any], Any]
    """Raises a ValueError where the value is another."""

    def __call__(self, name: str, value: Any) -> Any:
        try:
            return self.convert(value)
        except ValueError:
            giant = " (of 64 bits)" if isinstance(value, int) and abs(value) >= 2**63 else ""
            shown = reprlib.repr(value).replace("\n", " ")
            raise FlowlitError(f"{name} is {shown}; expected {self.expected}{giant}") from None


@cache
def check_of(annotation: Any) -> Check | None:
    """Return how an argument with this annotation is checked; None if it is not."""
    parts = get_args(annotation)
    origin = get_origin(annotation)
    if annotation is bool:
        return Check("true or false", _flag)
    if annotation is str:
        return Check("text", _text)
    if annotation in EXPECTED:
        return Check(EXPECTED[annotation], annotation)
    if _is_kind(annotation):
        return Check(f"an object of {annotation.__name__}", partial(_object, annotation))
    if origin is Literal:
        *others, last = map(repr, parts)
        expected = f"{', '.join(others)} or {last}" if others else last
        return Check(expected, partial(_choice, parts))
    if origin in (Union, UnionType):
        return _union(parts)
    if origin in (dict, Mapping):
        return _by_name(None if parts[0] is str else check_of(parts[0]), check_of(parts[1]))
    if origin is tuple and ... not in parts:
        return _tuple([check_of(part) for part in parts])
    if origin in (list, tuple, Sequence):
        return _several(check_of(parts[0]))
    return None


def _flag(value: Any) -> bool:
    if not isinstance(value, bool) and getattr(value, "dtype", None) != "bool":
        raise ValueError
    return bool(value)


def _text(value: Any) -> str:
    """Return a text, or a path as one."""
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str):
        raise ValueError
    return text


def _is_kind(annotation: Any) -> bool:
    """Return whether an annotation is a class of this package or of PyTorch's modules; protocols are none."""
    if not isinstance(annotation, type) or getattr(annotation, "_is_protocol", False):
        return False
    return any(base.__module__.startswith(("flowlit.", "torch.nn.")) for base in annotation.__mro__)


def _object(kind: type, value: Any) -> Any:
    # a function serves where a call is all that is needed of a kind
    called = "__call__" in getattr(kind, "__abstractmethods__", ())
    if not isinstance(value, kind) and not (called and callable(value) and not isinstance(value, type)):
        raise ValueError
    return value


def _choice(choices: tuple[Any, ...], value: Any) -> Any:
    for choice in choices:
        if value is choice or (value == choice and isinstance(value, bool) == isinstance(choice, bool)):
            return choice
    raise ValueError


def _union(kinds: tuple[Any, ...]) -> Check | None:
    """Check by the first of the kinds that takes the value."""
    checks = [check for check in map(check_of, kinds) if check is not None]
    others = tuple(kind for kind in kinds if isinstance(kind, type) and check_of(kind) is None)
    if not checks or len(others) + len(checks) < len(kinds):
        return None

    def convert(value: Any) -> Any:
        if isinstance(value, others):
            return value
        for check in checks:
            with suppress(ValueError):
                return check.convert(value)
        raise ValueError

    names = ["none" if kind is NoneType else kind.__name__ for kind in others]
    return Check(" or ".join([*(check.expected for check in checks), *names]), convert)


def _by_name(name: Check | None, entry: Check | None) -> Check | None:
    if name is None and entry is None:
        return None
    wanted = [f"each {entry.expected}"] if entry else []
    wanted += [f"each with {name.expected}"] if name else []
    expected = ", ".join(wanted)
    names = name.convert if name else _same
    entries = entry.convert if entry else _same

    def convert(value: Any) -> dict[Any, Any]:
        if not isinstance(value, Mapping):
            raise ValueError
        return {names(key): entries(item) for key, item in value.items()}

    return Check(f"entries by name, {expected}", convert)


def _same(value: Any) -> Any:
    return value


def _tuple(checks: list[Check | None]) -> Check | None:
    entries = [check for check in checks if check is not None]
    if len(entries) < len(checks):
        return None

    def convert(value: Any) -> Any:
        pairs = zip(entries, _items(value), strict=True)
        return _like(value, [check.convert(item) for check, item in pairs])

    return Check(", ".join(check.expected for check in entries), convert)


def _several(check: Check | None) -> Check | None:
    if check is None:
        return None
    return Check(
        f"several, each {check.expected}",
        lambda value: _like(value, [check.convert(item) for item in _items(value)]),
    )


def _items(value: Any) -> list[Any]:
    if isinstance(value, (str, bytes, Mapping, set, frozenset)) or not isinstance(value, Iterable):
        raise ValueError
    return list(value)


def _like(value: Any, items: list[Any]) -> Any:
    return tuple(items) if isinstance(value, tuple) else items
