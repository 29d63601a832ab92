"""How an object is built, as plain data that a checkpoint can hold."""

from __future__ import annotations

from dataclasses import asdict, is_dataclass
from importlib import import_module
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from ..types import FlowlitError


def spec(thing: Any) -> dict[str, Any] | None:
    """Describe how to build an object again, as {"class_path", "init_args"}; None if it cannot be told.

    Networks tell it by an attribute ``spec``; dataclasses (solvers) and objects without state (codecs) are read.
    """
    path = f"{type(thing).__module__}.{type(thing).__qualname__}"
    if isinstance(told := getattr(thing, "spec", None), dict):
        return told
    if is_dataclass(thing):
        return {"class_path": path, "init_args": asdict(thing)}  # type: ignore[arg-type]
    return None if vars(thing) else {"class_path": path, "init_args": {}}


def build(description: dict[str, Any], base: type) -> Any:
    """Build an object from its spec; only subclasses of ``base`` are accepted.

    Raises:
        FlowlitError: if the class cannot be imported, is of another kind, or takes other arguments.
    """
    module, _, name = str(description.get("class_path")).rpartition(".")
    try:
        kind = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise FlowlitError(f"cannot import {module}.{name}, which a checkpoint names ({error}); is it on PYTHONPATH?") from error
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise FlowlitError(f"{module}.{name}, which a checkpoint names, is not a {base.__name__}; refused")
    try:
        return instantiate(description, base)
    except (ArgumentError, ValueError, TypeError) as error:
        raise FlowlitError(f"cannot build {description.get('class_path')} as its checkpoint describes it: {error}") from error


def instantiate(description: dict[str, Any], base: type) -> Any:
    """Build what a configuration describes, by a class or by a function that returns one, as YAMLs are read everywhere.

    Not for descriptions that come with a file of weights, which are not to choose what is called: ``build``.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--it", type=base)
    return parser.instantiate_classes(parser.parse_object({"it": description})).it
