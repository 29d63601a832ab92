"""Classes that a misspelt name may be meant for, and their options; nothing is imported beside flowlit."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from typing import Any

from ..._support.names import public_path
from ..._support.suggestions import closest


def options_of(path: str) -> list[str]:
    """Return the options of a class or function that was imported; none of one that was not."""
    from jsonargparse import ArgumentParser

    target = _imported(path)
    parser = ArgumentParser(exit_on_error=False)
    try:
        if inspect.isclass(target):
            parser.add_class_arguments(target)
        elif callable(target):
            parser.add_function_arguments(target)
        defaults = parser.get_defaults(skip_validation=True)
        return [key for key in defaults.keys(branches=True) if "." not in key]
    except Exception:  # what cannot be described is not listed; the error itself stands
        return []


def like_class(path: str, types: str = "") -> str:
    """Return the end of an error: the class that a class path was meant to be, if one is like it.

    Only what was imported is looked at, beside flowlit. ``types`` are those of the option.
    """
    from ..listing import class_paths

    module, _, name = path.rpartition(".")
    siblings = vars(sys.modules[module]) if module in sys.modules else {}
    beside = {each: f"{module}.{each}" for each, value in siblings.items() if inspect.isclass(value)}
    bases = map(_imported, re.findall(r"<class '([\w.]+\.\w+)'>", types))
    below = {each.__name__: public_path(each) for base in bases for each in _subclasses(base)}
    nouns = {noun.rpartition(".")[2]: noun for noun in reversed(class_paths())}
    same = [noun for last, noun in nouns.items() if last.lower() == name.lower()]
    candidates = {**nouns, **below, **beside}
    meant = closest(name, beside) or closest(name, candidates)
    likely = same[0] if same else candidates.get(meant or "")
    return f"; did you mean {likely}?" if likely else ""


def _imported(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(sys.modules.get(module), name, None)


def _subclasses(base: Any) -> Iterator[type]:
    for child in base.__subclasses__() if inspect.isclass(base) else ():
        yield child
        yield from _subclasses(child)
