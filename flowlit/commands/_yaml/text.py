"""The text of a YAML: plain, small and unambiguous, which is known before anything is built from it."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from ..._support.suggestions import closest
from ...errors import FlowlitError

BYTES = 4 << 20
"""Length of a configuration, at most."""

VALUES = 100_000
"""Values of a configuration with all of its aliases in place, at most."""

DEPTH = 64
"""Mappings and lists inside each other, at most."""

PLAIN_TAGS = {"!", "str", "int", "float", "bool", "null", "map", "seq"}
"""Tags that may stand in a configuration (``!!str 007``): they build no objects."""

QUOTES = "mapping values are not allowed|cannot start any token"
"""Problems of a parser with a text that has no quotes."""

WEIGHTS = (".ckpt", ".pt", ".pth", ".safetensors")
"""Ends of names of files that are no YAML, but weights."""

OTHERWISE = re.compile(r"[-+]?(0[0-7_]+|[1-9][\d_]*(:[0-5]?\d)+|\d[\d_]*(:[0-5]?\d)+\.[\d_]*)")
"""Numbers that YAML reads as others than they look like: 010 as 8, 1:30 as 90."""

_STANDARD = "tag:yaml.org,2002:"
_TIMESTAMP = f"{_STANDARD}timestamp"


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML's safe loader, for which a date is a text, as it is for the parsers of the command line."""

    yaml_implicit_resolvers = {
        letter: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
        for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def read_text(path: str | Path, missing: str) -> str:
    """Return the text of a file that is to be a YAML.

    ``missing`` is the error's text if there is no such file, with {} for its name.

    Raises:
        FlowlitError: if it does not exist, is no plain file, cannot be read, is too large or not UTF-8.
    """
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise FlowlitError(f"{path} is a folder, expected a YAML")
        if not stat.S_ISREG(status.st_mode):
            raise FlowlitError(f"{path} is a pipe or a device, expected a YAML; write it to a file first")
        if Path(path).suffix in WEIGHTS:
            raise FlowlitError(f"{path} is a file of weights, expected a YAML; name it by --ckpt_path")
        if status.st_size > BYTES:
            raise FlowlitError(f"{path} has {status.st_size:,} bytes, expected a YAML of at most {BYTES:,}")
        return Path(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise FlowlitError(f"{missing.format(path)}{_beside(Path(path))}") from error
    except UnicodeDecodeError as error:
        raise FlowlitError(f"{path} is not UTF-8 (byte {error.start:,}); save it as UTF-8") from error
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise FlowlitError(f"{path} cannot be read ({why}); expected a YAML") from error


def _beside(path: Path) -> str:
    """Return the end of an error: the file of the same folder that a missing one was meant to be."""
    try:
        names = [each.name for each in path.parent.glob("*.y*ml")]
    except (OSError, ValueError):
        return ""
    name = closest(path.name, names)
    return f"; did you mean {path.with_name(name)}?" if name is not None else ""


def load_text(text: str, where: str | Path) -> object:
    """Return what a YAML describes.

    Raises:
        FlowlitError: if it is no YAML, has a key twice in one mapping, contains itself, is nested too deep,
            becomes too large by its aliases, has tags, which would build objects, or numbers such as 010.
    """
    try:
        _check(text)
        return yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise FlowlitError(f"{where} is not valid YAML: {_worded(error, text)}") from error


def check_text(text: str, where: str) -> None:
    """Refuse a word of the command line that would be a hostile YAML; one that is no YAML is a text.

    Raises:
        FlowlitError: as ``load_text``.
    """
    try:
        _check(text)
    except ValueError as error:
        raise FlowlitError(f"{where}: {error}") from error
    except yaml.YAMLError:
        pass


@dataclass
class _Node:
    """A mapping or a list that is being read."""

    is_mapping: bool
    anchor: str | None
    size: int = 1
    children: int = 0
    keys: set[str] = field(default_factory=set)


def _check(text: str) -> None:
    """Walk through the events of a YAML; nothing is built, so that it takes no more than the text is long."""
    open_nodes: list[_Node] = [_Node(False, None)]
    sizes: dict[str, int] = {}
    for event in yaml.parse(text, Loader):
        mark = event.start_mark
        line = 0 if mark is None else mark.line + 1
        parent = open_nodes[-1]
        size = 0
        if isinstance(event, yaml.events.NodeEvent):
            is_key = parent.is_mapping and parent.children % 2 == 0
            parent.children += 1
            _check_tag(event, line)
            if is_key and isinstance(event, yaml.ScalarEvent):
                _check_key(parent, event.value, line)
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            open_nodes.append(_Node(isinstance(event, yaml.MappingStartEvent), event.anchor))
            if len(open_nodes) > DEPTH + 1:
                raise ValueError(f"line {line}: nested deeper than {DEPTH} levels")
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            ended = open_nodes.pop()
            parent = open_nodes[-1]
            size = ended.size
            sizes |= {ended.anchor: size} if ended.anchor else {}
        elif isinstance(event, yaml.ScalarEvent):
            size = 1
            _check_number(event, line, len(open_nodes) > 1)
            sizes |= {event.anchor: 1} if event.anchor else {}
        elif isinstance(event, yaml.AliasEvent):
            if any(node.anchor == event.anchor for node in open_nodes):
                raise ValueError(f"line {line}: &{event.anchor} contains itself")
            size = sizes.get(event.anchor or "", 1)
        parent.size += size
        if parent.size > VALUES:
            raise ValueError(f"line {line}: more than {VALUES:,} values, aliases in place")


def _check_tag(event: yaml.events.NodeEvent, line: int) -> None:
    tag = getattr(event, "tag", None)
    if tag is not None and tag.removeprefix(_STANDARD) not in PLAIN_TAGS:
        raise ValueError(f"line {line}: a tag, {tag}; a configuration has none, classes are class_path")


def _check_number(event: yaml.ScalarEvent, line: int, inside: bool) -> None:
    """Refuse a number inside a mapping or list that is read as another; a word alone may become a text."""
    if inside and event.implicit[0] and OTHERWISE.fullmatch(event.value):
        number = yaml.load(event.value, Loader)
        raise ValueError(
            f"line {line}: {event.value} is read as the number {number}; write that, or in quotes for a text"
        )


def _check_key(parent: _Node, key: str, line: int) -> None:
    if key in parent.keys:
        raise ValueError(f"line {line}: {key!r} is given twice; keep one of the two")
    parent.keys.add(key)


def _worded(error: Exception, text: str) -> str:
    """Return what is wrong, with the line of a parser's error in front."""
    if isinstance(error, RecursionError):
        return "nested too deep"
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return " ".join(str(error).split())
    where = f"line {mark.line + 1}, column {mark.column + 1}"
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    if "\t" in line[: mark.column + 1] and not line[: mark.column].strip():
        return f"{where}: a tab; indent by spaces"
    problem = str(getattr(error, "problem", None))
    context = getattr(error, "context", None)
    hint = "; a text with a colon or a sign in front needs quotes" if re.search(QUOTES, problem) else ""
    return f"{where}: {problem}{f' ({context})' if context else ''}{hint}"
