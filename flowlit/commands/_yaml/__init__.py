"""Configurations as plain data: YAML with the fragments that it names.

Only ``build_network`` imports torch.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import FlowlitError
from .references import check_references
from .text import load_text, read_text

if TYPE_CHECKING:
    from torch import nn

MISSING = "{} does not exist; run flowlit from the folder that holds experiments/"
FRAGMENTS = 64
"""Files that one configuration is made of, at most."""


def load_yaml(path: str | Path, missing: str = MISSING) -> Any:
    """Return the content of a YAML file as it stands.

    ``missing`` is the error's text if there is no such file, with {} for its name.

    Raises:
        FlowlitError: as ``read_text`` and ``load_text``.
    """
    return load_text(read_text(path, missing), path)


def read_yaml(path: str | Path, missing: str = MISSING) -> dict[str, Any]:
    """Read a YAML file, with the fragments that it names (``network: parts/unet.yaml``) in place.

    Raises:
        FlowlitError: as ``load_yaml``, or if the file holds no mapping.
    """
    return _read(Path(path), missing, [])


def has_stages(content: dict[str, Any]) -> bool:
    """Return whether the content of a YAML is a recipe, of stages of its own or included ones."""
    return "include" in content or {"root", "stages"} <= content.keys()


def _read(path: Path, missing: str, files: list[Path]) -> dict[str, Any]:
    content = load_yaml(path, missing)
    if not isinstance(content, dict):
        kind = "it is empty" if content is None else f"found {type(content).__name__}"
        raise FlowlitError(f"{path}: expected a mapping of names to values, {kind}")
    files.append(path)
    if len(files) > FRAGMENTS:
        raise FlowlitError(f"{files[0]} names more than {FRAGMENTS} fragments, or {path} names itself")
    return _with_fragments(content, path.parent, files)


def _with_fragments(node: Any, folder: Path, files: list[Path]) -> Any:
    if isinstance(node, dict):
        return {key: _with_fragments(value, folder, files) for key, value in node.items()}
    if isinstance(node, list):
        return [_with_fragments(value, folder, files) for value in node]
    if isinstance(node, str) and node.endswith(".yaml") and os.path.isfile(folder / node):
        return _read(folder / node, MISSING, files)
    return node


def network_in(path: str | Path) -> dict[str, Any]:
    """Return model.init_args.network of a YAML, a fragment or a whole experiment, ``${…}`` resolved.

    Raises:
        FlowlitError: if the file cannot be read, or describes no network.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    content = read_yaml(path, "{} cannot be read (No such file); expected a YAML that describes a network")
    check_references([content], str(path))
    try:
        network: Any = OmegaConf.select(OmegaConf.create(content), "model.init_args.network")
        if OmegaConf.is_config(network):
            network = OmegaConf.to_container(network, resolve=True)
    except (OmegaConfBaseException, ValueError) as error:
        raise FlowlitError(f"{path} cannot be read as a configuration: {error}") from error
    if not isinstance(network, dict) or "class_path" not in network:
        raise FlowlitError(
            f"{path}: expected model.init_args.network with a class_path, found {network or 'none'}"
        )
    return network


def build_network(path: str | Path, trust: bool = True) -> nn.Module:
    """Build the network of a YAML by a class, or by a function that returns one, as the other commands do.

    Not for descriptions that come with a file of weights, which must not choose what is called: those are
    built by ``networks.checkpoints.spec.build``. Without trust only classes of ``_trust.PACKAGES`` are built.

    Raises:
        FlowlitError: as ``network_in``, or if the network cannot be built.
    """
    from jsonargparse import ArgumentError, ArgumentParser
    from torch import nn

    from .._line.parsing import reworded
    from .trust import check_class_paths, only_packages

    description = network_in(path)
    if not trust:
        check_class_paths(description, path)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--network", type=nn.Module)
    try:
        with only_packages(not trust):
            return parser.instantiate(parser.parse_object({"network": description})).network
    except (ArgumentError, FlowlitError, ValueError, TypeError, ImportError) as error:
        raise FlowlitError(
            f"{path}: its network cannot be built: {reworded(str(error)).removeprefix('network: ')}"
        ) from error
