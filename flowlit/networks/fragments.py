"""Networks that a YAML describes, and which of the fragments in experiments/parts it is."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentError
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from ..types import FlowlitError
from .description import build, instantiate, spec

PLACES = (Path("experiments/parts"), Path(__file__).parents[2] / "experiments/parts")
_TRAINING = ("dropout", "label_dropout")  # arguments that do not change weights


def structure(description: Any) -> Any:
    """A description without what only matters in training."""
    if isinstance(description, dict):
        return {key: structure(value) for key, value in description.items() if key not in _TRAINING}
    return [structure(value) for value in description] if isinstance(description, (list, tuple)) else description


def complete(description: dict[str, Any]) -> dict[str, Any] | None:
    """The description that a network gives of itself, with all defaults; None if it cannot be built."""
    try:
        with torch.device("meta"):
            return spec(build(description, nn.Module))
    except FlowlitError:
        return None


def fragment_of(description: dict[str, Any]) -> Path | None:
    """Find the file of experiments/parts whose network is described, every argument of it; None if there is none."""
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
        found: Any = OmegaConf.to_container(network, resolve=True) if OmegaConf.is_config(network) else network
    except OSError as error:
        raise FlowlitError(f"{path} cannot be read ({error.strerror}); expected a YAML that describes a network") from error
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise FlowlitError(f"{path} cannot be read as a configuration: {error}") from error
    if not isinstance(found, dict) or "class_path" not in found:
        raise FlowlitError(f"{path}: expected model.init_args.network with a class_path, found {found or 'none'}")
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


def in_words(description: dict[str, Any]) -> str:
    """UNet(width=64, …), and the fragment that fits.

    >>> in_words({"class_path": "my.Net", "init_args": {"width": 3}})
    'Net(width=3)'
    """
    fragment = fragment_of(description)
    return _in_words(description) + (f", which is {fragment}" if fragment else "")


def _in_words(value: Any) -> str:
    if isinstance(value, dict) and "class_path" in value:
        arguments = ", ".join(f"{key}={_in_words(entry)}" for key, entry in (value.get("init_args") or {}).items())
        return f"{value['class_path'].rpartition('.')[2]}({arguments})"
    return str(value)
