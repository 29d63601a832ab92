"""The words of a command line, looked at before a parser builds anything from them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from ..._support.suggestions import did_you_mean
from ...errors import FlowlitError
from .._yaml import has_stages, load_yaml, read_yaml
from .._yaml.references import check_references
from .._yaml.text import check_text, load_text

CONFIG = ("-c", "--config")

Variables = dict[str, str | bool | int | float | list | dict | None]
"""Type of ``--vars``: a word stays text, and becomes a number where a field of that type takes it."""


def options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the options of a command line, each with its value, also if it is written --option=value."""
    for place, word in enumerate(words):
        option, equals, value = word.partition("=")
        if not word.startswith("-"):
            continue
        if equals:
            yield option, value
        elif word.startswith("-c") and len(word) > 2 and not word.startswith("--"):
            yield "-c", word[2:]
        elif place + 1 < len(words):
            yield option, words[place + 1]


def config_files(words: Sequence[str]) -> list[str]:
    """Return the files that are given with -c."""
    return [value for option, value in options(words) if option in CONFIG]


def named_files(words: Sequence[str]) -> list[str]:
    """Return the files that words name: as values of any option, or within them."""
    parts = (part for word in words for part in re.split(r"[][{}\s=,:'\"]+", word))
    values = (value for _, value in options(words))
    return [name for name in map(os.path.expanduser, (*values, *parts)) if os.path.isfile(name)]


def configs(words: Sequence[str]) -> list[dict[str, Any]]:
    """Return the content of every file that is given with -c.

    Raises:
        FlowlitError: if one is missing or no sound YAML, or makes its root a number.
    """
    contents = []
    for file in config_files(words):
        content = read_yaml(file)
        _check_root(file, content.get("vars"))
        if has_stages(content):
            raise FlowlitError(f"{file} is a recipe: flowlit pipeline -c {file}")
        if "trust" in content:
            raise FlowlitError(f"{file} has the key trust; trust is given on the command line")
        contents.append(content)
    check_references(contents, ", ".join(config_files(words)))
    return contents


def read_configs(words: Sequence[str]) -> list[dict[str, Any]]:
    """Return what is in the files given with -c.

    Raises:
        FlowlitError: if one is no sound YAML.
    """
    try:
        return configs(words)
    except FlowlitError as error:
        raise FlowlitError(f"parsing config: {error}") from error


def check_vars(words: Sequence[str], contents: Sequence[dict[str, Any]]) -> None:
    """Refuse ``--vars.name`` that none of the files given with -c declares: nothing would read it.

    Raises:
        FlowlitError: naming those that are declared.
    """
    declared = {name for content in contents for name in content.get("vars") or {}}
    given = [option.removeprefix("--vars.") for option, _ in options(words) if option.startswith("--vars.")]
    used = f"{contents} {words}" if not declared else ""
    unknown = [name for name in given if name.split(".")[0] not in (declared or {"root"})]
    unknown = [name for name in unknown if f"{{vars.{name}}}" not in used]
    if unknown:
        known = ", ".join(sorted(declared)) or "none"
        meant = did_you_mean(unknown[0], declared)
        raise FlowlitError(f"--vars.{unknown[0]}: no such variable; the files declare {known}{meant}")


def named_options(contents: Sequence[Any]) -> Iterator[str]:
    """Yield what YAMLs set, as options of a command line: --model.network.width."""
    for content in contents:
        yield from (f"--{'.'.join(keys)}" for keys in _leaves(content))


def _leaves(node: Any) -> Iterator[tuple[str, ...]]:
    for key, value in node.items() if isinstance(node, dict) else ():
        first = () if key == "init_args" else (str(key),)
        if isinstance(value, dict):
            yield from ((*first, *keys) for keys in _leaves(value))
        elif key != "class_path":
            yield first


def check_words(words: Sequence[str]) -> None:
    """Refuse values that are no sound YAML, in files and in words, before a parser reads them.

    Raises:
        FlowlitError: naming the file or the option.
    """
    for option, value in options(words):
        if value.endswith((".yaml", ".yml")) and option not in CONFIG and os.path.isfile(value):
            load_yaml(value)
        elif value.startswith(("{", "[", "&")) or "*" in value:
            check_text(value, option)


def check_numbers(words: Sequence[str], values: dict[str, Any]) -> None:
    """Refuse words that a parser read as other numbers than they look like: 010 as 8, 12:30 as 750.

    Args:
        words: of a command line.
        values: that a parser made of them, nested.

    Raises:
        FlowlitError: naming the option, and both numbers.
    """
    for option, word in options(words):
        if not re.fullmatch(r"[-+]?0\d+|\d+(:[0-5]?\d)+", word):
            continue
        node: Any = values
        for part in option.removeprefix("--").split("."):
            inner = node.get("init_args") if isinstance(node, dict) and part not in node else node
            node = inner.get(part) if isinstance(inner, dict) else None
        if isinstance(node, (int, float)) and str(node) != word:
            raise FlowlitError(
                f"{option} {word} is read as the number {node}; write that, or a text: v{word}"
            )


def _check_root(path: str, variables: Any) -> None:
    if not isinstance(variables, (dict, type(None))):
        raise FlowlitError(f"{path}: vars is {variables!r}, expected names and values")
    root = (variables or {}).get("root", "")
    if not isinstance(root, str):
        raise FlowlitError(f"{path}: vars.root is {root!r}, expected a folder; write root: './{root}'")


def with_text_root(words: Sequence[str]) -> list[str]:
    """Return the words with ``--vars.root`` so that it is a folder, also if its name reads as a number.

    >>> with_text_root(["fit", "--vars.root", "1e5", "--vars.root=null", "--vars.root", "runs/a"])
    ['fit', '--vars.root', './1e5', '--vars.root=./null', '--vars.root', 'runs/a']
    """
    renewed = list(words)
    for place, word in enumerate(words):
        if word.startswith("--vars.root="):
            renewed[place] = f"--vars.root={as_folder(word.partition('=')[2])}"
        elif word == "--vars.root" and place + 1 < len(words):
            renewed[place + 1] = as_folder(words[place + 1])
    return renewed


def as_folder(name: str) -> str:
    """Return the name of a folder so that every parser takes it for a text.

    >>> [as_folder(name) for name in ("20251105", "1e5", "no", "[a]", "runs/a", "/tmp/1")]
    ['./20251105', './1e5', './no', './[a]', 'runs/a', '/tmp/1']

    Raises:
        FlowlitError: if no spelling of it is a text.
    """
    spellings = (name, f"./{name}")
    text = next((spelling for spelling in spellings if not spelling or _is_text(spelling)), None)
    if text is None:
        raise FlowlitError(f"{name!r} is no name for a folder here: YAML reads it as {_read(name)!r}")
    return text


def _is_text(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return _read(word) == word
    return False


def _read(word: str) -> object:
    try:
        return load_text(word, "a word")
    except FlowlitError:
        return word  # a text in spite of its first sign
