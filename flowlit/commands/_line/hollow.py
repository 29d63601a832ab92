"""Names in a YAML with nothing but ``{}`` below them, which jsonargparse leaves out without a word."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..._support.suggestions import did_you_mean


def unread(contents: Sequence[Mapping[str, Any]], values: Mapping[str, Any]) -> str:
    """Return what is wrong with the first name that nothing takes; '' if there is none.

    Args:
        contents: of the files of a command line.
        values: that a parser made of them, nested, with all defaults.
    """
    return next((problem for content in contents for problem in _unread(content, values, "")), "")


def _unread(content: Any, value: Any, above: str) -> Iterator[str]:
    if isinstance(content, list) and isinstance(value, list):
        for part, taken in zip(content, value[-len(content) :], strict=False):  # others may stand before them
            yield from _unread(part, taken, above)
    if not isinstance(content, dict) or not isinstance(value, Mapping) or _replaced(content, value):
        return
    arguments = value.get("init_args")
    known = {**(arguments if isinstance(arguments, Mapping) else {}), **value}
    no_class = value.get("class_path") == "typing.Union"  # where one of several types is expected
    for key, inner in content.items():
        name = str(key).removesuffix("+")
        path = f"{above}{name}"
        if name in known:
            yield from _unread(inner, known[name], f"{path}." if name != "init_args" else above)
        elif _is_hollow(inner) and (known.keys() - {"class_path", "init_args"} or no_class):
            yield f"{path}: no such option{did_you_mean(name, map(str, known))}"


def _replaced(content: Mapping[str, Any], value: Mapping[str, Any]) -> bool:
    """Return whether a later file has another class in the place of this one."""
    classes = [str(each.get("class_path", "")).rpartition(".")[2] for each in (content, value)]
    return classes[0] not in ("", classes[1])


def _is_hollow(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_hollow, value.values()))
