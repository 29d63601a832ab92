"""References ``${…}`` of a command line, and errors of those that lead nowhere."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from ..._support.suggestions import closest
from .._yaml.references import check_references, resolved
from .words import CONFIG, configs, options


def with_values(words: Sequence[str], contents: Sequence[dict[str, Any]]) -> list[str]:
    """Return the words with texts and numbers in place of references to what files, or other words, set.

    Parsers of nested classes look for them in the class alone.

    >>> with_values(["--a.b", "${vars.x}/${vars.y}", "--vars.x=1"], [{"vars": {"x": 0, "y": 2}}])
    ['--a.b', '1/2', '--vars.x=1']

    Raises:
        FlowlitError: if they lead back to themselves, or become too large.
    """
    if not any("${" in word for word in words):
        return list(words)
    layers = [*contents, _nested(words)]
    check_references(layers, "command line")
    renewed = list(words)
    for place, word in enumerate(words):
        option, equals, value = word.partition("=")
        if not equals and place:
            option = words[place - 1]
            value = word
        if option.startswith("--") and option not in CONFIG and "${" in value:
            text = resolved(value, layers, _keys(option))
            renewed[place] = f"{option}={text}" if equals else text
    return renewed


def _nested(words: Sequence[str]) -> dict[str, Any]:
    """Return the options of a command line as a file would have them."""
    content: dict[str, Any] = {}
    for option, value in options(words):
        if not option.startswith("--") or option in CONFIG:
            continue
        node = content
        *above, last = _keys(option)
        for key in above:
            inner = node.get(key)
            node[key] = inner if isinstance(inner, dict) else {}
            node = node[key]
        node[last] = value
    return content


def _keys(option: str) -> tuple[str, ...]:
    return tuple(option.removeprefix("--").split("."))


def leads_nowhere(message: str, words: Sequence[str]) -> str:
    """Return omegaconf's error of a reference that leads nowhere as flowlit says it; others as they are.

    Args:
        message: of omegaconf.
        words: of the command line, whose files have what the reference may be meant for.
    """
    match = re.search(r"Interpolation key '\.*([\w.]+)' not found(?: \(resolved to '\w+\.(.+)'\))?", message)
    if match is None:
        return message.partition("\n")[0]
    name = match[2] or match[1]
    places = dict(place for content in configs(words) for place in _places(content, ()))
    if name in places.values():
        return f"${{{name}}} is no text or number, and no word of a command line can have it"
    if name in places:
        return f"${{{name}}} leads nowhere; write ${{{places[name]}}}"
    for place in places.values():
        around = name.removesuffix(f".{place}")
        if around != name and around in places.values():
            return (
                f"${{{place}}} leads nowhere from a file that another one names (it is looked for in "
                f"{around}); give the file with -c, or write the value"
            )
    meant = closest(name, places)
    return f"${{{name}}} leads nowhere" + (f"; did you mean {places[meant]}?" if meant else "")


def _places(node: Any, keys: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield the names of what a configuration sets: as an option has it, and as a reference has to."""
    for key, value in node.items() if isinstance(node, dict) else ():
        path = (*keys, str(key))
        if path[-1] != "init_args":
            yield ".".join(step for step in path if step != "init_args"), ".".join(path)
        yield from _places(value, path)
