"""Reasons for which jsonargparse refuses a value: it prints a page, of which one line says what is wrong.

Keys and class paths lead, by their indentation, to reasons, one for each type that an option may have. The
reason that was meant is the one of a class that is named, or else that of all types together.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, replace
from typing import Any

KEY = re.compile(r'Parser key "([\w.+-]+)":\s*(.*)')
CLASS = re.compile(r"Problem with given class_path '([\w.]+)':$")
CALLABLE = re.compile(r"Type (?:typing\.)?Callable.* expects a function or a callable class: ")
BUILT = re.compile(r"\. Got value: Namespace\(class_path='([\w.]+)'.*")
GIVEN = re.compile(r"Given value: (.*?)(?:\. Got value: .*)?$")
SUBTYPES = re.compile(r"Subtypes: \[(.*)\]")
FRAME = re.compile(
    r"Does not validate against any of the Union subtypes|Errors:$|Given value type: |$|"
    r"Expected a <class 'NoneType'>|Expected a path but .* either not accessible or invalid|"
    r"Subclass types expect one of:|a class path \(str\)|a dict with"
)
"""Lines of an error that only lead to what is wrong."""

EXPECTED = re.compile(r"Expected an? (?:typing\.)?(?:<class '(?:[\w.]+\.)?(\w+)'>|Literal\[.*\])")
"""What is wrong with one of several types, of which another may have a better reason."""

NO_CLASS = re.compile(
    r"Not a valid subclass of|Expected a dot import path string: |Unexpected import path format: "
)
"""What is wrong with a type that is a class, if the value was not meant for one."""

TYPES = {"bool": "true or false", "dict": "names with values", "list": "a list", "str": "a text"}
TYPES |= {"tuple": "a list", "Sequence": "a list", "Iterable": "a list"}
"""Types as a user of YAML calls them."""


@dataclass
class Reason:
    """A reason of one of the types of an option, with the keys and classes above it, and what was given."""

    text: str
    indent: int
    keys: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    given: str | None = None
    given_below: int = 0  # keys
    subtypes: str = ""

    @property
    def depth(self) -> int:
        return len(self.keys) + len(self.classes)

    @property
    def value(self) -> Any:
        """The value that was given, as plain data where it is; of the command line, its text."""
        if self.given is None:
            return None
        nested = re.fullmatch(r"NestedArg\(key='.*?', val='?(.*?)'?\)", self.given)
        try:
            node: Any = nested[1] if nested is not None else ast.literal_eval(self.given)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            node = self.given
        for key in self.keys[self.given_below :]:
            node = node.get("init_args", node) if isinstance(node, dict) else None
            node = node.get(key) if isinstance(node, dict) else None
        return node


def reasons_of(message: str) -> list[Reason]:
    """Return the reasons of an error, each with the keys and classes above it."""
    above: list[tuple[int, str, str]] = []
    reasons: list[Reason] = []
    subtypes: dict[int, str] = {}  # of the frames that are open, by their indentation
    lines = message.splitlines()
    for place, line in enumerate(lines):
        body = line.lstrip(" ")
        indent = len(line) - len(body)
        text = CALLABLE.sub("", body.removeprefix("- "))
        if text:
            above = [header for header in above if header[0] < indent]
        if "expects a function or a callable class: " in body:
            built = BUILT.search("\n".join(lines[place:]))
            above += [(indent, "class", built[1])] if built else []
        text = BUILT.sub("", text)
        for pattern, kind in ((KEY, "key"), (CLASS, "class")):
            match = pattern.match(text)
            if match is not None:
                above.append((indent, kind, match[1]))
                text = text[match.start(match.lastindex) :] if match.lastindex == 2 else ""
        if match := SUBTYPES.match(text):
            subtypes[indent] = match[1]
        elif match := GIVEN.match(text):
            for reason in reasons:
                if reason.indent > indent and reason.given is None:
                    reason.given = match[1]
                    reason.given_below = len(_names(above, "key"))
                    reason.subtypes = subtypes.get(indent, "")
        elif not FRAME.match(text):
            reasons.append(Reason(text.strip(), indent, _names(above, "key"), _names(above, "class")))
    return reasons


def _names(above: list[tuple[int, str, str]], kind: str) -> tuple[str, ...]:
    return tuple(name for _, of_kind, name in above if of_kind == kind)


def meant(reasons: list[Reason]) -> Reason:
    """Return the reason of the type that was meant: of the class that is named, or of all types together."""
    depth = max(reason.depth for reason in reasons)
    deepest = [reason for reason in reasons if reason.depth == depth]
    plain = [reason for reason in deepest if EXPECTED.match(reason.text)]
    named = [reason for reason in deepest if reason not in plain and not _is_class_of_a_plain(reason, plain)]
    strong = [reason for reason in named if not NO_CLASS.match(reason.text)]
    if strong or named or len(plain) < 2:
        return (strong or named or deepest)[0]
    return _together(plain)


def _is_class_of_a_plain(reason: Reason, plain: list[Reason]) -> bool:
    """Return whether a class is refused that was not named: ``fast`` for float or Tensor."""
    if not plain or not NO_CLASS.match(reason.text):
        return False
    given = reason.text.rpartition(": ")[2]
    named = "class_path" in (reason.given or "") or re.fullmatch(r"[\w.]*\.[A-Za-z]\w*|[A-Z]\w*", given)
    return not named or reason.text.startswith("Not a valid")


def _together(plain: list[Reason]) -> Reason:
    """Return one reason for several types: expected int, or one of …"""
    first = plain[0]
    literals = re.findall(r"[^\s,']+", " ".join(re.findall(r"Literal\[(.*?)\]", first.subtypes)))
    types = [name for reason in plain for name in EXPECTED.findall(reason.text) if name]
    if literals:  # a Literal of numbers is refused as a number
        types = [name for name in types if f"'{name}'" in first.subtypes]
    words = [TYPES.get(name, name) for name in dict.fromkeys(types)]
    expected = [*words, *[f"one of {', '.join(dict.fromkeys(literals))}"] * bool(literals)]
    text = f"expected {' or '.join(expected)}"
    return replace(first, text=text)
