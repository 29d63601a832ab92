"""Variables of a recipe: values given once, which reach every stage whose YAML has them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..._support.suggestions import did_you_mean
from ...errors import FlowlitError
from .._line.words import check_numbers
from .._yaml import read_yaml
from .._yaml.references import check_references, resolved
from .._yaml.text import load_text
from .stage import Stage

Variables = dict[str, Any]

_REFERENCE = re.compile(r"\$\{vars\.(\w+)\}")


def check_variables(path: str, variables: Any) -> Variables:
    """Return the variables of a recipe's file.

    Raises:
        FlowlitError: unless they are names with plain values.
    """
    if not isinstance(variables, dict):
        raise FlowlitError(f"{path}: vars is {variables!r}, expected names and values")
    for name, value in variables.items():
        if not isinstance(name, str) or not name.isidentifier() or name == "root":
            raise FlowlitError(f"{path}: a variable cannot be called {name!r}; root is a key of its own")
        if isinstance(value, (dict, list)):
            raise FlowlitError(f"{path}: vars.{name} is {value!r}, expected one text or number")
    return variables


def described(variables: Variables) -> str:
    """Return a line on the variables of a recipe and on how another value is given.

    >>> described({"method": "slimflow", "seed": 1})
    'variables: method=slimflow seed=1; another value by --vars.NAME VALUE'
    """
    values = " ".join(f"{name}={'' if value is None else value}" for name, value in variables.items())
    return f"variables: {values}; another value by --vars.NAME VALUE"


def overridden(
    variables: Variables, name: str, word: str, stages: Sequence[Stage] = (), recipes: Sequence[str] = ()
) -> Variables:
    """Return variables of which one has the value that was typed; a text stays a text.

    Args:
        variables: of the recipe.
        name: of the one.
        word: its new value.
        stages: of the recipe, whose YAMLs may have the variable where the recipe has not.
        recipes: the file, and those that it includes.

    Raises:
        FlowlitError: if there is no such variable, or it is to be a number and is none.
    """
    if name not in variables:
        known = ", ".join(variables) or "none"
        meant = did_you_mean(name, variables)
        own = [stage.name for stage in stages if name in _declared(_files(stage, variables, recipes))]
        if own:
            option = "--root" if name == "root" else f"--{own[0]}.vars.{name}"
            meant = f"; stage {', '.join(own)} has it: {option} {word}"
        raise FlowlitError(f"--vars.{name}: no such variable; the recipe has {known}{meant}")
    before = variables[name]
    value = word if isinstance(before, str) else load_text(word, f"--vars.{name}")
    number = isinstance(before, (int, float)) and not isinstance(before, bool)
    if number and (not isinstance(value, (int, float)) or isinstance(value, bool)):
        raise FlowlitError(f"--vars.{name} is {word!r}; expected a number, as {before}")
    check_numbers([f"--vars.{name}", word], {"vars": {name: value}})
    return variables | {name: value}


def in_place(value: Any, variables: Mapping[str, Any]) -> Any:
    """Return a value with the variables that its texts name in place; other references stay.

    >>> in_place(["parts/${vars.size}.yaml", "${vars.root}/a"], {"size": "tiny"})
    ['parts/tiny.yaml', '${vars.root}/a']
    """
    if isinstance(value, str):
        return resolved(value, [{"vars": dict(variables)}], ())
    if isinstance(value, list):
        return [in_place(item, variables) for item in value]
    if isinstance(value, dict):
        return {key: in_place(item, variables) for key, item in value.items()}
    return value


def root_in_place(root: Path, variables: Variables, recipe: str) -> Path:
    """Return the root of a recipe with variables in place.

    Raises:
        FlowlitError: if it names one that the recipe lacks: a folder would have its name; or if variables
            lead back to themselves.
    """
    check_references([{"vars": variables}], recipe)
    place = in_place(str(root), variables)
    missing = _REFERENCE.search(place)
    if missing is not None:
        meant = did_you_mean(missing[1], variables)
        raise FlowlitError(f"{recipe}: root names vars.{missing[1]}, which the recipe has not{meant}")
    return Path(place)


def found(name: str, *recipes: str) -> str:
    """Return where a file of a recipe is: in the working folder, or else beside the recipe or above it.

    Of several recipes, one that includes the others, the first counts beside or above which it is.

    >>> found("experiments/nowhere.yaml", "experiments/recipes/mine.yaml")
    'experiments/nowhere.yaml'
    """
    places = (folder / name for recipe in recipes for folder in Path(recipe).absolute().parents)
    if os.path.exists(name) or os.path.isabs(name):
        return name
    return next((str(place) for place in places if place.exists()), name)


def settle(stages: Sequence[Stage], variables: Variables, recipes: Sequence[str]) -> None:
    """Put variables in place in all stages, and hand each to the stages whose YAML has one of its name.

    Args:
        stages: as they stand in the recipe; changed.
        variables: with all values that are to be found.
        recipes: the file, and those that it includes.

    Raises:
        FlowlitError: if a YAML is missing, naming the values that a variable in its name may have.
    """
    for stage in stages:
        stage.options = in_place(stage.options, variables)
        configs = _files(stage, variables, recipes)
        stage.config = configs[0] if isinstance(stage.config, str) else configs
        declared = _declared(configs)
        for name, value in variables.items():
            if name in declared and value is not None:
                stage.options.setdefault(f"vars.{name}", value)


def _files(stage: Stage, variables: Variables, recipes: Sequence[str]) -> list[str]:
    """Return where the YAMLs of a stage are."""
    return [chosen_file(name, variables, recipes) for name in stage.configs]


def _declared(configs: Sequence[str]) -> set[str]:
    """Return the names of the variables that YAMLs have."""
    return {name for config in configs for name in read_yaml(config).get("vars") or {}}


def chosen_file(name: str, variables: Variables, recipes: Sequence[str]) -> str:
    """Return where a file is whose name may have variables.

    Raises:
        FlowlitError: if it is nowhere, and variables are to blame: naming their values for which it is there.
    """
    path = found(in_place(name, variables), *recipes)
    if os.path.exists(path):
        return path
    for variable in _REFERENCE.findall(name):
        if variable not in variables:
            meant = did_you_mean(variable, variables)
            raise FlowlitError(f"{recipes[0]}: {name} names vars.{variable}, which the recipe has not{meant}")
        values = [] if os.path.isabs(name) else _values(name, variable, variables, recipes)
        if values:
            given = variables[variable]
            meant = did_you_mean(str(given), values)
            raise FlowlitError(f"vars.{variable} is {given!r}; expected one of {', '.join(values)}{meant}")
    return path


def _values(name: str, variable: str, variables: Variables, recipes: Sequence[str]) -> list[str]:
    """Return the values of a variable for which the file that it names exists."""
    others = {key: value for key, value in variables.items() if key != variable}
    before, _, after = in_place(name, others).partition(f"${{vars.{variable}}}")
    above = (folder for recipe in recipes for folder in Path(recipe).absolute().parents)
    for folder in (Path(), *above):
        names = sorted(str(path.relative_to(folder)) for path in folder.glob(f"{before}*{after}"))
        if names:
            return [name[len(before) : len(name) - len(after)] for name in names]
    return []
