"""Which of the fragments in experiments/parts describes a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from ..types import FlowlitError
from .description import build, spec

PLACES = (Path("experiments/parts"), Path(__file__).parents[2] / "experiments/parts")
_KNOWN = [f"flowlit.networks.{name}" for name in ("UNet", "ADM", "DiT", "EDM")]
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
    """Find the file of experiments/parts whose network is described; None if there is none."""
    folder = next((place for place in PLACES if place.is_dir()), None)
    wanted = complete(description)
    for path in sorted(folder.glob("*.yaml")) if folder and wanted else []:
        network = _network(yaml.safe_load(path.read_text()))
        known = network and str(network.get("class_path")) in _KNOWN
        told = complete(network) if network and known else None
        if told is not None and structure(told) == structure(wanted):
            return path
    return None


def network_in(path: str | Path) -> dict[str, Any]:
    """The network that a YAML describes, a fragment or a whole experiment.

    Raises:
        FlowlitError: if the file is missing, no YAML, or describes none.
    """
    try:
        network = _network(yaml.safe_load(Path(path).read_text()))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise FlowlitError(f"{path} cannot be read as YAML ({error})") from error
    if network is None:
        raise FlowlitError(f"{path} describes no network; expected model.init_args.network.class_path")
    return network


def _network(content: Any) -> dict[str, Any] | None:
    for key in ("model", "init_args", "network"):
        content = content.get(key) if isinstance(content, dict) else None
    return content if isinstance(content, dict) and "class_path" in content else None


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
