"""Configurations as plain data: YAML with the fragments that it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ..errors import FlowlitError


def _load_yaml(path: Path, missing: str) -> Any:
    try:
        return yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise FlowlitError(missing) from error
    except yaml.YAMLError as error:
        raise FlowlitError(f"{path} is not valid YAML: {error}") from error


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file, with the fragments that it names (``network: parts/unet.yaml``) in place.

    Raises:
        FlowlitError: if it is missing or not a mapping.
    """
    path = Path(path)
    content = _load_yaml(path, f"{path} does not exist; run flowlit from the folder that holds experiments/")
    if not isinstance(content, dict):
        raise FlowlitError(f"{path}: expected a mapping, found {type(content).__name__}")

    def fill(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: fill(value) for key, value in node.items()}
        if isinstance(node, list):
            return [fill(value) for value in node]
        if isinstance(node, str) and node.endswith(".yaml") and (path.parent / node).is_file():
            return read_yaml(path.parent / node)
        return node

    return fill(content)
