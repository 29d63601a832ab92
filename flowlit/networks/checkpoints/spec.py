"""The spec of an object: how it is built, as plain data that a checkpoint can hold."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import fields, is_dataclass
from typing import Any

from jsonargparse import ArgumentParser
from jsonargparse._common import denying_import_path_entry  # what commands that look restrict
from torch import nn

from ..._support.names import in_current_names, public_path, resolve
from ...errors import FlowlitError
from ...solvers.grids import TimeGrid
from ...solvers.model_statistics import ModelStatistics
from ...types import Codec, Diffusion, Solver


def spec(thing: Any) -> dict[str, Any] | None:
    """Return how to build an object again, as {"class_path", "init_args"}; None if it has no description.

    Networks describe themselves by an attribute ``spec``; dataclasses (solvers, also with another solver or
    a time grid, which may have a diffusion) and objects without state (codecs) are read. An argument that is
    None by default, and is so here, is left out: what is compared stays as it was when a class gets another
    option.
    """
    path = public_path(type(thing))
    own = getattr(thing, "spec", None)
    if isinstance(own, dict):
        return own
    if not is_dataclass(thing):
        return None if vars(thing) else {"class_path": path, "init_args": {}}
    values = {argument.name: getattr(thing, argument.name) for argument in fields(thing)}
    optional = {argument.name for argument in fields(thing) if argument.default is None}
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, (TimeGrid, Diffusion, ModelStatistics, Solver)):
            arguments[name] = spec(value)
            if arguments[name] is None:
                return None
        elif value is not None or name not in optional:
            arguments[name] = deepcopy(value)
    return {"class_path": path, "init_args": arguments}


_LATER = {"second_time": False}
"""Arguments that older files lack. A spec has them with another value only, so as to equal older ones."""


def own_spec(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the spec of a class of ``flowlit.networks``, from ``locals()`` as its constructor begins."""
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in arguments.items()}
    recorded = {
        key: value
        for key, value in plain.items()
        if key not in ("self", "__class__") and not (key in _LATER and value == _LATER[key])
    }
    return {"class_path": f"flowlit.networks.{name}", "init_args": recorded}


def build(description: dict[str, Any], base: type) -> Any:
    """Build an object from its spec, also from one with names of before.

    A spec comes with a file of weights, which must not choose what is called. So it may name a subclass of
    ``base``, with networks, diffusions, solvers, grids and codecs inside; functions are refused.

    Raises:
        FlowlitError: if a class cannot be imported, is of another kind, or takes other arguments.
    """
    if not isinstance(description, dict):
        raise FlowlitError(
            f"cannot build {description!r}: a checkpoint describes a network by class_path and init_args"
        )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--it", type=base)
    try:
        for path in class_paths(description):
            _check_import(path)
        _check_class(str(description.get("class_path")), (base,))
        parsed = parser.parse_object({"it": in_current_names(description)})
        for path in class_paths(parsed.as_dict()):
            _check_class(path, (base, nn.Module, Diffusion, Solver, TimeGrid, ModelStatistics, Codec))
        return parser.instantiate(parsed).it
    except FlowlitError:
        raise
    except Exception as error:  # whatever constructors make of sizes for which there is no memory
        why = " ".join(str(error).split()) or type(error).__name__
        raise FlowlitError(
            f"cannot build {description.get('class_path')} as its checkpoint describes it: {why}"
        ) from error


def class_paths(parsed: Any) -> Iterator[str]:
    """Yield every class that a parsed configuration names, also inside others."""
    if isinstance(parsed, dict):
        if "class_path" in parsed:
            yield str(parsed["class_path"])
        for value in parsed.values():
            yield from class_paths(value)
    elif isinstance(parsed, (list, tuple)):
        for value in parsed:
            yield from class_paths(value)


def _check_import(path: str) -> None:
    """Refuse to import what no network can be in, and what commands that look keep away from."""
    module = path.rpartition(".")[0]
    program = path.partition(".")[0] in sys.stdlib_module_names or module.endswith(".__main__")
    if program and module not in sys.modules:
        raise FlowlitError(f"{path}, which a checkpoint names, is no class of networks; refused")
    if "." in path and denying_import_path_entry(path) == "*":
        raise FlowlitError(
            f"{path}, which a checkpoint names, is refused, since its file is not trusted; if you know that "
            "class, add --trust, or name the file's folder in FLOWLIT_TRUST"
        )


def _check_class(path: str, bases: tuple[type, ...]) -> None:
    try:
        kind = resolve(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise FlowlitError(
            f"cannot import {path}, which a checkpoint names ({error}); is it on PYTHONPATH?"
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, bases)):
        raise FlowlitError(f"{path}, which a checkpoint names, is not a {bases[0].__name__}; refused")


_TRAINING = ("dropout", "label_dropout")  # arguments that do not change weights


def structure(description: Any) -> Any:
    """Return a spec without the arguments that only matter in training."""
    if isinstance(description, dict):
        return {key: structure(value) for key, value in description.items() if key not in _TRAINING}
    if isinstance(description, (list, tuple)):
        return [structure(value) for value in description]
    return description


def summarise(description: Any) -> str:
    """Return a description as one line of text.

    >>> summarise({"class_path": "my.Net", "init_args": {"width": 3}})
    'Net(width=3)'
    """
    if isinstance(description, dict) and "class_path" in description:
        arguments = (description.get("init_args") or {}).items()
        inside = ", ".join(f"{key}={summarise(value)}" for key, value in arguments)
        return f"{description['class_path'].rpartition('.')[2]}({inside})"
    return str(description)
