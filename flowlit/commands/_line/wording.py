"""Words of jsonargparse, and ours: what was found, what was expected, and the edit that mends it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from typing import Any

from ..._support.suggestions import closest, did_you_mean
from .._yaml.trust import MEND
from .classes import like_class, options_of
from .reasons import TYPES, Reason

SPEC = {"class_path", "init_args", "dict_kwargs"}
NAMES = 12
"""Options of a class that are listed, at most."""

LISTED = {
    "Callback": "callbacks",
    "Codec": "codecs",
    "Coupling": "couplings",
    "ImageDataset": "images",
    "LightningDataModule": "modules",
    "LightningModule": "modules",
    "Module": "networks",
    "Objective": "objectives",
    "Solver": "solvers",
}
"""Base classes whose classes ``flowlit list`` shows, and their kind there."""


def in_our_words(reason: Reason, known: Iterable[str]) -> str:
    """Return a reason of jsonargparse as flowlit says it; ``known`` are options of the parser."""
    text = reason.text
    for pattern, words in WORDS:
        match = re.search(pattern, text)
        if match is not None and callable(words):
            return words(match, reason, known)
        text = text if match is None else re.sub(pattern, str(words), text)
    value = _shown(reason.value)
    return f"found {value}, {text}" if text.startswith("expected ") and value else text


def _shown(value: Any) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _no_option(match: re.Match[str], reason: Reason, known: Iterable[str]) -> str:
    """Return the words for an option that a class, or a parser, does not have."""
    name = match["name"]
    if not reason.classes:
        return f"{name}: no such option{_meant_in_yaml(name, known)}"
    path = reason.classes[-1]
    value = reason.value
    if name == "class_path":
        return _beside(value)
    if isinstance(value, dict) and not SPEC & set(value) and path not in str(value):
        return f"found {_shown(value)}, expected a class_path and its init_args{_where(path)}"
    return _not_accepted(name, path)


def _not_accepted(name: str, path: str) -> str:
    options = options_of(path)
    first, dot, inner = name.partition(".")
    meant = closest(first, [*options, "init_args", "class_path"])
    ending = f"; did you mean {meant}{dot}{inner}?" if meant is not None else ";"
    listed = f" it has {', '.join(options[:NAMES])}{' …' * (len(options) > NAMES)}" if options else ""
    return f"{name!r} is not accepted by {path}{ending}{listed}".rstrip(";")


def _meant_in_yaml(name: str, known: Iterable[str]) -> str:
    """Return the option that a name in a YAML was meant for, by its whole path, its beginning, or its end."""
    options = [each.lstrip("-") for each in known]
    options = [each for each in options if each != name and not each.endswith(f".{name}")]  # itself
    first, dot, below = name.partition(".")
    heads = {each.partition(".")[0]: f"{each.partition('.')[0]}{dot}{below}" for each in options}
    ends = {each.rpartition(".")[2]: each for each in options}
    for word, names in ((name, {each: each for each in options}), (first, heads), (name, ends)):
        if meant := closest(word, names):
            return f"; did you mean {names[meant]}?"
    return ""


def _elsewhere(name: str, known: Iterable[str]) -> str:
    """Return the option that was meant: one that ends likewise, or the one that is most like it."""
    option, equals, value = name.partition("=")
    bare = option.lstrip("-")
    plain = {each[2:] for each in known if each.startswith("--")}
    ending = sorted((each for each in plain if each.endswith(f".{bare}")), key=len)
    meant = ending[0] if ending else closest(bare, plain)
    dashes = "--" if name.startswith("-") or equals else ""
    return f"; did you mean {dashes}{meant}{equals}{value}?" if meant is not None else ""


def _unrecognized(match: re.Match[str], reason: Reason, known: Iterable[str]) -> str:
    word = match["name"]
    if reason.classes:  # an option below a class: --networ.width=8
        if ".help" in word:
            return "no class is given above it; put -c CONFIG, or the class, before it"
        return _not_accepted(word.lstrip("-").partition("=")[0], reason.classes[-1])
    if re.fullmatch(r"[^-].*\.ya?ml", word):
        return f"{match[0]}; did you mean -c {word}?"
    return f"{match[0]}{_elsewhere(word, known)}"


def _no_name(match: re.Match[str], reason: Reason, known: Iterable[str]) -> str:
    """Return the words for a module without such a class."""
    path = f"{match['module']}.{match['name']}"
    written = reason.classes[-1] if reason.classes and reason.classes[-1].startswith(path) else path
    return f"module {match['module']!r} has no attribute {match['name']!r}{like_class(written)}"


def _no_class(match: re.Match[str], reason: Reason, known: Iterable[str]) -> str:
    name = match["name"]
    if "/" in name or re.search(r"\.ya?ml$", name):
        return f"{name} does not exist, and is no class path"
    meant = like_class(name, reason.subtypes)
    return f"no class {name}{meant or '; expected a class path, package.module.Class'}"


def _no_module(match: re.Match[str], reason: Reason, known: Iterable[str]) -> str:
    name = match["name"]
    path = reason.classes[-1] if reason.classes else ""
    if path and not f"{path}.".startswith(f"{name}."):
        return f"{match[0]}, which {path} imports; install it"
    if path.startswith("flowlit."):
        return f"{match[0]}{like_class(path)}"
    return f"{match[0]}; if {name.partition('.')[0]}.py is in this folder, put PYTHONPATH=. before flowlit"


def _no_subclass(match: re.Match[str], reason: Reason, known: Iterable[str]) -> str:
    """Return the words for a value that describes no object of a class."""
    value = reason.value
    base = match["base"]
    if isinstance(value, dict) and "class_path" in value and set(value) - SPEC:
        return _beside(value)
    shown = _shown(match["value"] if value is None else value) or "nothing"
    return f"found {shown}, expected {_a(base)}: its class_path and init_args{_listed(base)}"


def _no_kind(match: re.Match[str], reason: Reason, known: Iterable[str]) -> str:
    """Return the words for a class of another kind."""
    path = match["path"]
    value = reason.value
    if path is None:
        path = value.get("class_path") if isinstance(value, dict) else value
    if isinstance(path, str) and path in sys.modules:
        return f"{path} is a module, expected a class in it{like_class(path)}"
    base = match["base"]
    what = f"{path or 'it'} is no {base}, nor a function that returns one by its annotation"
    return what + _listed(base)


def _abstract(match: re.Match[str], reason: Reason, known: Iterable[str]) -> str:
    path = match["path"]
    value = reason.value
    if isinstance(value, dict) and "class_path" not in value:
        return f"found {_shown(value)}, expected a class_path and its init_args{_where(path)}"
    if isinstance(value, dict) and set(value) - SPEC:
        return _beside(value)
    name = path.rpartition(".")[2]
    return f"found no class_path, expected that of {_a(name)}, and its options under init_args{_where(path)}"


def _required(match: re.Match[str], reason: Reason, known: Iterable[str]) -> str:
    names = match["names"]
    if reason.classes:
        return f"{reason.classes[-1]} requires {names}; give it under init_args"
    parts = re.findall(r"\w+\.(model|data)\b", names)
    return f"required: {', '.join(parts)}, which no file given with -c has" if parts else match[0]


def _no_type(match: re.Match[str], reason: Reason, known: Iterable[str]) -> str:
    shown = match["value"] or _shown(reason.value)
    return f"found {shown}, " * bool(shown) + f"expected {TYPES.get(match['type'], match['type'])}"


def _no_literal(match: re.Match[str], reason: Reason, known: Iterable[str]) -> str:
    """Return the words for a value that is none of a few."""
    value = match["value"] or _shown(reason.value)
    names = re.findall(r"[^\s,']+", match["names"])
    before = f"found {value}, " * bool(value)
    return f"{before}expected {'one of ' * (len(names) > 1)}{', '.join(names)}{did_you_mean(value, names)}"


def _beside(value: Any) -> str:
    """Return the words for options that are not where they belong."""
    names = [str(name) for name in value if name not in SPEC] if isinstance(value, dict) else []
    what = ", ".join(names) or "options"
    return f"{what} beside class_path; expected under init_args, one level further in"


def _denied(match: re.Match[str], reason: Reason, known: Iterable[str]) -> str:
    """Return the words for a class that only a trusted file may name, or for a value without a class: the
    type of its field is looked up then.
    """
    value = reason.value
    if value is None or match["path"] in str(value):
        return f"{match['path']} is refused; {MEND}"
    items = value if isinstance(value, list) else [value]
    classes = [item for item in items if isinstance(item, dict) and "class_path" in item]
    wrong = next((item for item in classes if item.keys() - SPEC), None)
    return (
        f"found {_shown(value)}, expected a class_path and its init_args" if wrong is None else _beside(wrong)
    )


def _a(name: str) -> str:
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"


def _listed(base: str) -> str:
    return f" (flowlit list {LISTED[base]})" if base in LISTED else ""


def _where(path: str) -> str:
    return _listed(path.rpartition(".")[2])


Words = str | Callable[[re.Match[str], Reason, Iterable[str]], str]
WORDS: tuple[tuple[str, Words], ...] = (
    (r"(?:^Option|does not accept option) '(?P<name>[^']+)'", _no_option),
    (r"^unrecognized arguments: (?P<name>\S+).*", _unrecognized),
    (r"^the following arguments are required: (?P<names>.*)", _required),
    (r"module '(?P<module>[\w.]+)' has no attribute '(?P<name>\w+)'", _no_name),
    (r"(?:Expected a dot import path string|Unexpected import path format): (?P<name>.+)", _no_class),
    (r"No module named '(?P<name>[\w.]+)'", _no_module),
    (r"^Not a valid subclass of (?P<base>\w+)(?:\. Got value: (?P<value>.*))?", _no_subclass),
    (r"^Import path ?(?P<path>\S+)? does not correspond to a subclass of (?P<base>\w+)", _no_kind),
    (r"^Expected an instantiatable class, but (?P<path>[\w.]+) is abstract", _abstract),
    (r"^[Ee]xpected an? <class '(?:[\w.]+\.)?(?P<type>\w+)'>(?:\. Got value: (?P<value>.*))?", _no_type),
    (r"^Not of type .*?: (found .*, expected .*)", r"\1"),
    (r"Expected a (?:typing\.)?Literal\[(?P<names>.*?)\](?:\. Got value: (?P<value>.*))?", _no_literal),
    (r'^Unable to load config "(.*?)".*', r"found \1, expected a YAML"),
    (r"\.\. Got value: .*$", ""),
    (r"(expected an? [\w ]*number.*)\. Got value: .*$", r"\1"),
    (r"Importing '(?P<path>\S+)' is not allowed, denied by .*", _denied),
)
"""Wordings of jsonargparse, and ours."""
