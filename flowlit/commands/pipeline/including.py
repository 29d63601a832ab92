"""Recipes that include others: what these have comes first, and a recipe's own keys are laid over it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from ..._support.suggestions import did_you_mean
from ...errors import FlowlitError
from .._line.words import options
from .._yaml import load_yaml
from .._yaml.references import check_references
from .variables import Variables, check_variables, chosen_file

KEYS = ("include", "root", "vars", "budget", "stages", "table")
FILES = 64
"""Files that one recipe is made of, at most."""

DEPTH = 4
"""Mappings inside each other that merge: the recipe, its stages, a stage, the options of that."""


@dataclass
class Reader:
    """A reader of a recipe and of all that it includes.

    Args:
        typed: variables as the command line has them, which choose what is included.
    """

    typed: Mapping[str, str]
    files: list[str] = field(default_factory=list)
    """All that were read."""

    def read(self, path: str, outer: Variables, chain: tuple[str, ...] = ()) -> dict[str, Any]:
        """Return the keys of a recipe laid over those of all that it includes.

        Args:
            path: of the recipe.
            outer: variables of the recipes that include this one, which win.
            chain: of these recipes.

        Raises:
            FlowlitError: if one is missing, no recipe, or leads back to itself.
        """
        place = os.path.realpath(path)
        self.check_chain(path, place, chain)
        self.files.append(path)
        content = load_yaml(path, "recipe {} does not exist; the shipped ones are in experiments/recipes/")
        check_keys(path, content)
        own = check_variables(path, content.get("vars") or {}) | outer
        below: dict[str, Any] = {}
        for name in _included(path, content.pop("include", [])):
            known = {**(below.get("vars") or {}), **own, **self.typed}
            check_references([{"vars": known}], path)
            included = self.read(chosen_file(name, known, [path]), own, (*chain, place))
            below = laid_over(below, included)
        return _without_dropped(path, laid_over(below, content), below)

    def check_chain(self, path: str, place: str, chain: tuple[str, ...]) -> None:
        """Refuse a file that is included within itself, and too many of them."""
        if place in chain:
            names = " → ".join(map(os.path.relpath, (*chain[chain.index(place) :], place)))
            raise FlowlitError(f"{path}: includes lead back to themselves: {names}; remove one of them")
        if len(self.files) >= FILES:
            raise FlowlitError(f"{self.files[0]} is made of more than {FILES} files; include fewer")


def typed_variables(words: Sequence[str]) -> dict[str, str]:
    """Return the variables among the words of a command line, as they were typed.

    >>> typed_variables(["--reflow.x", "1", "--vars.size", "small", "--vars.seed=3"])
    {'size': 'small', 'seed': '3'}
    """
    given = (pair for pair in options(words) if pair[0].startswith("--vars."))
    return {option.removeprefix("--vars."): value for option, value in given}


def check_keys(path: str, content: Any) -> None:
    """Refuse a file that is no recipe, nor a part of one.

    Raises:
        FlowlitError: naming the keys that it has.
    """
    keys = set(content) if isinstance(content, dict) else set()
    unknown = sorted(str(key) for key in keys if key not in KEYS)
    if not keys or (unknown and not keys & {"root", "stages", "include"}):
        raise FlowlitError(f"{path} is not a recipe; expected root and stages")
    if unknown:
        meant = did_you_mean(unknown[0], KEYS)
        raise FlowlitError(f"{path}: unknown keys {unknown}; a recipe has {', '.join(KEYS)}{meant}")
    if not isinstance(content.get("stages", {}), dict):
        raise FlowlitError(f"{path}: stages is {content['stages']!r}, expected a mapping of names to stages")


def _included(path: str, names: Any) -> Iterator[str]:
    """Yield the names of the files that a recipe includes."""
    given = names if isinstance(names, list) else [names]
    wrong = [name for name in given if not isinstance(name, str) or not name]
    if wrong:
        raise FlowlitError(
            f"{path}: include has {wrong[0]!r}, expected the name of a recipe, or a list of names"
        )
    yield from given


def laid_over(below: Any, above: Any, depth: int = DEPTH) -> Any:
    """Return mappings merged key by key, down to a depth; of all other values the upper one.

    A new key comes after the one before it in the upper mapping; after all, if there is none.

    >>> laid_over({"vars": {"a": 1, "b": 1}, "table": [1]}, {"vars": {"b": 2}, "table": [2]})
    {'vars': {'a': 1, 'b': 2}, 'table': [2]}
    >>> laid_over({"a": 1, "b": 1}, {"a": 1, "c": 1, "d": 1})
    {'a': 1, 'c': 1, 'd': 1, 'b': 1}
    """
    if depth == 0 or not isinstance(below, dict) or not isinstance(above, dict):
        return above
    order = list(below)
    for before, key in pairwise([None, *above]):
        if key not in below:
            order.insert(len(order) if before is None else order.index(before) + 1, key)
    merged = below | {key: laid_over(below.get(key), value, depth - 1) for key, value in above.items()}
    return {key: merged[key] for key in order}


def _without_dropped(path: str, content: dict[str, Any], below: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe without the included stages that it sets to null."""
    stages = content.get("stages", {})
    included = below.get("stages") or {}
    dropped = [name for name, fields in stages.items() if fields is None]
    unknown = [str(name) for name in dropped if name not in included]
    if unknown:
        known = f"expected one of {', '.join(included)}" if included else "no stage is included"
        meant = did_you_mean(unknown[0], included)
        raise FlowlitError(f"{path}: stage {unknown[0]} is null, which leaves one out; {known}{meant}")
    if dropped:
        content["stages"] = {name: fields for name, fields in stages.items() if fields is not None}
    return content
