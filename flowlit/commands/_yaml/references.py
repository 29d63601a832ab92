"""References ``${…}`` of configurations: their size and their ends, before anything follows them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ...errors import FlowlitError

SIZE = 1_000_000
"""Characters and values that a configuration may have with all references in place."""

CHAIN = 32
"""References that lead to each other, at most."""

REFERENCE = re.compile(r"\$\{\s*(\.*)([\w.\[\]-]+)\s*\}")

VARIABLE = re.compile(r"\$\{\s*oc\.env:[^${}]*\}")
"""Of the environment, with or without a default."""

Path = tuple[str, ...]


def check_references(contents: Sequence[dict[str, Any]], where: str) -> None:
    """Refuse configurations whose references lead back to themselves, or that grow too large by them.

    One that leads nowhere is left to the parser.

    Args:
        contents: of files that are laid over each other.
        where: they come from.

    Raises:
        FlowlitError: naming the references, or one of another form, whose size is not known.
    """
    sizes = _Sizes(contents, where)
    for content in contents:
        sizes.of_node(content, ())


def resolved(text: str, contents: Sequence[dict[str, Any]], path: Path) -> str:
    """Return a text of configurations that were checked, with values in place of references, as far as they
    are there.

    >>> resolved("${.root}/x ${nowhere}", [{"vars": {"root": "${top}"}, "top": "runs"}], ("vars", "a"))
    'runs/x ${nowhere}'

    Args:
        text: which may have references.
        contents: of files that are laid over each other.
        path: where the text stands.
    """

    def value(match: re.Match[str]) -> str:
        target = _target(path, *match.groups())
        node = _found(contents, target)
        if node is None or isinstance(node, (dict, list)):
            return match[0]
        return resolved(node, contents, target) if isinstance(node, str) else str(node)

    return REFERENCE.sub(value, text)


class _Sizes:
    """Sizes of the values of a configuration, references in place; each is measured once."""

    def __init__(self, contents: Sequence[dict[str, Any]], where: str):
        self.contents = contents
        self.where = where
        self.measured: dict[Path, int] = {}
        self.chain: list[Path] = []

    def of_node(self, node: Any, path: Path) -> int:
        if isinstance(node, (dict, list)):
            items = node.items() if isinstance(node, dict) else enumerate(node)
            size = 1 + sum(self.of_node(value, (*path, str(key))) for key, value in items)
        elif isinstance(node, str):
            if "${" in VARIABLE.sub(" ", REFERENCE.sub(" ", node)):
                raise FlowlitError(
                    f"{self.where}: {'.'.join(path)} is {node!r:.60}; references are ${{dotted.name}} and "
                    "${oc.env:NAME}"
                )
            targets = [_target(path, *match) for match in REFERENCE.findall(node)]
            size = len(node) + sum(self.at(target) for target in targets)
        else:
            size = 1 + (node.bit_length() // 32 if isinstance(node, int) else 0)
        if size > SIZE:
            name = ".".join(path) or "all of it"
            raise FlowlitError(f"{self.where}: {name} has more than {SIZE:,} characters, references in place")
        return size

    def at(self, path: Path) -> int:
        """Return the size of what a reference leads to, in the last file that has it."""
        if path in self.measured:
            return self.measured[path]
        if path in self.chain or len(self.chain) > CHAIN:
            names = " → ".join(".".join(step) for step in (*self.chain[-3:], path))
            why = "lead back to themselves" if path in self.chain else f"are more than {CHAIN} deep"
            raise FlowlitError(f"{self.where}: references {why}: {names}")
        self.chain.append(path)
        size = self.of_node(_found(self.contents, path), path)
        self.chain.pop()
        self.measured[path] = size
        return size


def _target(path: Path, dots: str, name: str) -> Path:
    """Return where a reference leads; dots count levels up from the value that has it."""
    steps = tuple(re.split(r"[.\[\]]+", name.rstrip("]")))
    return (*path[: -len(dots)], *steps) if dots else steps


def _found(contents: Sequence[dict[str, Any]], path: Path) -> Any:
    """Return the value at a place in the last file that has one; None if none has."""
    values = (_look_up(content, path) for content in reversed(contents))
    return next((value for value in values if value is not None), None)


def _look_up(content: Any, path: Path) -> Any:
    for step in path:
        if isinstance(content, list) and step.isdigit() and int(step) < len(content):
            content = content[int(step)]
        else:
            content = content.get(step) if isinstance(content, dict) else None
    return content
