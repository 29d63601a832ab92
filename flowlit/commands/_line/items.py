"""Items of lists on the command line: ``--trainer.callbacks.0.decay 0.9``, and variables of several files.

jsonargparse has neither: it takes a list, and a mapping of any names, as one value.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from ...errors import FlowlitError
from .._yaml.text import load_text
from .words import CONFIG

ITEM = re.compile(r"--([\w.]+?)\.(\d+)(?:\.([\w.]+))?")
"""Option of a list, number of an item from 0, option of the item."""


def with_items(words: Sequence[str], contents: Sequence[dict[str, Any]]) -> list[str]:
    """Return the words with one more configuration in place of those that override items of lists.

    Args:
        words: of a command line.
        contents: of the files that it names, later ones winning.

    Raises:
        FlowlitError: if a list has no such item, or is given anew on the command line.
    """
    lists: dict[tuple[str, ...], list[Any]] = {}
    others: list[str] = []
    remaining = list(words)
    while remaining:
        word = remaining.pop(0)
        option, equals, value = word.partition("=")
        match = ITEM.fullmatch(option)
        keys = None if match is None else _keys_of_list(match[1], contents)
        if match is None or keys is None or not (equals or remaining):
            others.append(word)
            continue
        if f"--{match[1]}" in (other.partition("=")[0] for other in words):
            raise FlowlitError(f"{option}: --{match[1]} gives the whole list; change the item there")
        items = lists.setdefault(keys, deepcopy(_list_at(keys, contents)))
        _set(items, match, value if equals else remaining.pop(0))
    for keys, items in lists.items():
        content: Any = items
        for key in reversed(keys):
            content = {key: content}
        others = _with_config(others, content)
    return others


def with_vars(words: Sequence[str], contents: Sequence[dict[str, Any]]) -> list[str]:
    """Return the words with the variables of all files together: later files replace them one by one."""
    several = [content["vars"] or {} for content in contents if "vars" in content]
    if len(several) < 2:
        return list(words)
    together = {name: value for variables in several for name, value in variables.items()}
    return _with_config(words, {"vars": together})


def _with_config(words: Sequence[str], content: dict[str, Any]) -> list[str]:
    """Return the words with one more configuration, after the files and before options that follow them."""
    place = max(i for i, word in enumerate(words) if word.startswith(("-c", "--config")))
    place += 2 if words[place] in CONFIG else 1  # --config=a.yaml and -ca.yaml are one word
    return [*words[:place], "--config", _in_one_line(content), *words[place:]]


def _in_one_line(value: Any) -> str:
    """Return a value as JSON, which is YAML, too, but for numbers that are not finite."""
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(f"{json.dumps(str(key))}: {_in_one_line(each)}" for key, each in value.items())
            + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(_in_one_line, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else f"{'-' * (value < 0)}.inf"
    return json.dumps(value)


def _keys_of_list(option: str, contents: Sequence[dict[str, Any]]) -> tuple[str, ...] | None:
    """Return the keys that lead to a list, ``init_args`` included; None if no file has a list there."""
    for content in reversed(contents):
        node: Any = content
        keys: tuple[str, ...] = ()
        for part in option.split("."):
            arguments = node.get("init_args") if isinstance(node, dict) else None
            if isinstance(arguments, dict) and part not in node:
                node = arguments
                keys += ("init_args",)
            node = node.get(part) if isinstance(node, dict) else None
            keys += (part,)
        if isinstance(node, list):
            return keys
    return None


def _list_at(keys: tuple[str, ...], contents: Sequence[dict[str, Any]]) -> list[Any]:
    """Return the list that the files make: the last one, and what later files add to it."""
    items: list[Any] = []
    for content in contents:
        node: Any = content
        for key in keys[:-1]:
            node = node.get(key) if isinstance(node, dict) else None
        if isinstance(node, dict) and isinstance(node.get(keys[-1]), list):
            items = list(node[keys[-1]])
        added = node.get(f"{keys[-1]}+") if isinstance(node, dict) else None
        if added is not None:
            items += added if isinstance(added, list) else [added]
    return items


def _set(items: list[Any], match: re.Match[str], word: str) -> None:
    """Set an item, or an option of it."""
    option, number, inner = match.groups()
    place = int(number)
    if place >= len(items):
        raise FlowlitError(f"--{option}.{number}: the files list {len(items)} there, numbered from 0")
    value = load_text(word, match[0]) if word.startswith(("[", "{")) or word == "null" else word
    if inner is None:
        items[place] = value
        return
    if isinstance(items[place], str):
        items[place] = {"class_path": items[place]}
    node = items[place]
    parts = inner.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(node, dict):
            raise FlowlitError(f"{match[0]}: {option}.{number} has no options, it is {node!r}")
        if "class_path" in node and part not in ("init_args", "class_path"):
            node = node.setdefault("init_args", {})
        if depth == len(parts) - 1:
            node[part] = value
        else:
            node = node.setdefault(part, {})
