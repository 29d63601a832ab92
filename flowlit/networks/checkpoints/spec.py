"""How an object is built, as plain data that a checkpoint can hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentError, ArgumentParser
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from ..._support.names import public_path, resolve
from ...errors import FlowlitError
from ...types import Codec, Diffusion, Solver


def spec(thing: Any) -> dict[str, Any] | None:
    """Describe how to build an object again, as {"class_path", "init_args"}; None if it cannot be told.

    Networks tell it by an attribute ``spec``; dataclasses (solvers) and objects without state (codecs) are
    read.
    """
    path = public_path(type(thing))
    if isinstance(told := getattr(thing, "spec", None), dict):
        return told
    if is_dataclass(thing):
        return {"class_path": path, "init_args": asdict(thing)}  # type: ignore[arg-type]
    return None if vars(thing) else {"class_path": path, "init_args": {}}


def own_spec(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The description of a class of ``flowlit.networks``, from the ``locals()`` at the beginning of its
    constructor.
    """
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in arguments.items()}
    return {
        "class_path": f"flowlit.networks.{name}",
        "init_args": {k: v for k, v in plain.items() if k not in ("self", "__class__")},
    }


def build(description: dict[str, Any], base: type) -> Any:
    """Build an object from its spec; only a subclass of ``base``, of parts that are networks, diffusions,
    solvers or codecs.

    A spec comes with a file of weights, which must not choose what is called: functions are refused, also
    inside.

    Raises:
        FlowlitError: if a class cannot be imported, is of another kind, or takes other arguments.
    """
    if not isinstance(description, dict):
        raise FlowlitError(
            f"cannot build {description!r}: a checkpoint describes a network by class_path and init_args"
        )
    _check_class(str(description.get("class_path")), (base,))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--it", type=base)
    try:
        parsed = parser.parse_object({"it": description})
        for path in _class_paths(parsed.as_dict()):
            _check_class(path, (base, nn.Module, Diffusion, Solver, Codec))
        return parser.instantiate_classes(parsed).it
    except (ArgumentError, ValueError, TypeError) as error:
        raise FlowlitError(
            f"cannot build {description.get('class_path')} as its checkpoint describes it: {error}"
        ) from error


def _class_paths(parsed: Any) -> Iterator[str]:
    """Every class that a parsed configuration names, also inside others."""
    if isinstance(parsed, dict):
        if "class_path" in parsed:
            yield str(parsed["class_path"])
        for value in parsed.values():
            yield from _class_paths(value)
    elif isinstance(parsed, (list, tuple)):
        for value in parsed:
            yield from _class_paths(value)


def _check_class(path: str, bases: tuple[type, ...]) -> None:
    try:
        kind = resolve(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise FlowlitError(
            f"cannot import {path}, which a checkpoint names ({error}); is it on PYTHONPATH?"
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, bases)):
        raise FlowlitError(f"{path}, which a checkpoint names, is not a {bases[0].__name__}; refused")


def instantiate(description: dict[str, Any], base: type) -> Any:
    """Build what a configuration describes, by a class or by a function that returns one, as YAMLs are read
    everywhere.

    Not for descriptions that come with a file of weights, which are not to choose what is called: ``build``.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--it", type=base)
    return parser.instantiate_classes(parser.parse_object({"it": description})).it


PLACES = (Path("experiments/parts"), Path(__file__).parents[2] / "experiments/parts")


_TRAINING = ("dropout", "label_dropout")  # arguments that do not change weights


def structure(description: Any) -> Any:
    """A description without what only matters in training."""
    if isinstance(description, dict):
        return {key: structure(value) for key, value in description.items() if key not in _TRAINING}
    return (
        [structure(value) for value in description] if isinstance(description, (list, tuple)) else description
    )


def complete(description: dict[str, Any]) -> dict[str, Any] | None:
    """The description that a network gives of itself, with all defaults; None if it cannot be built."""
    try:
        with torch.device("meta"):
            return spec(build(description, nn.Module))
    except FlowlitError:
        return None


def fragment_of(description: dict[str, Any]) -> Path | None:
    """Find the file of experiments/parts whose network is described, every argument of it; None if there is
    none.
    """
    folder = next((place for place in PLACES if place.is_dir()), None)
    wanted = structure(complete(description))
    for path in sorted(folder.glob("*.yaml")) if folder and wanted else []:
        with suppress(FlowlitError):  # a layer over something else than a network
            if structure(network_in(path)) == wanted:
                return path
    return None


def network_in(path: str | Path) -> dict[str, Any]:
    """Read model.init_args.network of a YAML, a fragment or a whole experiment, ``${…}`` resolved.

    Raises:
        FlowlitError: if the file is missing, no YAML, or describes none.
    """
    try:
        content = yaml.safe_load(Path(path).read_text())
        network = OmegaConf.select(OmegaConf.create(content or {}), "model.init_args.network")
        found: Any = (
            OmegaConf.to_container(network, resolve=True) if OmegaConf.is_config(network) else network
        )
    except OSError as error:
        raise FlowlitError(
            f"{path} cannot be read ({error.strerror}); expected a YAML that describes a network"
        ) from error
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise FlowlitError(f"{path} cannot be read as a configuration: {error}") from error
    if not isinstance(found, dict) or "class_path" not in found:
        raise FlowlitError(
            f"{path}: expected model.init_args.network with a class_path, found {found or 'none'}"
        )
    return found


def build_network(path: str | Path) -> nn.Module:
    """Build the network of a YAML as the other commands do.

    Raises:
        FlowlitError: as ``network_in``, or if it cannot be built.
    """
    description = network_in(path)
    try:
        return instantiate(description, nn.Module)
    except (ArgumentError, FlowlitError, ValueError, TypeError, ImportError) as error:
        raise FlowlitError(f"{path}: its network cannot be built: {error}") from error


def summarise(description: dict[str, Any]) -> str:
    """UNet(width=64, …), and the fragment that fits.

    >>> summarise({"class_path": "my.Net", "init_args": {"width": 3}})
    'Net(width=3)'
    """
    fragment = fragment_of(description)
    return _summarise(description) + (f", which is {fragment}" if fragment else "")


def _summarise(value: Any) -> str:
    if isinstance(value, dict) and "class_path" in value:
        arguments = ", ".join(
            f"{key}={_summarise(entry)}" for key, entry in (value.get("init_args") or {}).items()
        )
        return f"{value['class_path'].rpartition('.')[2]}({arguments})"
    return str(value)
