"""The words of a command line, looked at before a parser builds anything from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import FlowlitError
from ._yaml import load_yaml, read_yaml
from ._yaml_text import check_text, load_text

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


def configs(words: Sequence[str]) -> list[dict[str, Any]]:
    """Return the content of every file that is given with -c.

    Raises:
        FlowlitError: if one is missing or no sound YAML, or makes its root a number.
    """
    contents = []
    for option, value in options(words):
        if option in CONFIG:
            content = read_yaml(value)
            _check_root(value, content.get("vars"))
            contents.append(content)
    return contents


def check_words(words: Sequence[str]) -> None:
    """Refuse values that are no sound YAML, in files and in words, before a parser reads them.

    Raises:
        FlowlitError: naming the file or the option.
    """
    for option, value in options(words):
        if value.endswith((".yaml", ".yml")) and option not in CONFIG and Path(value).is_file():
            load_yaml(value)
        elif value.startswith(("{", "[", "&")) or "*" in value:
            check_text(value, option)


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
