"""Packages of optional extras, imported where they are used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..errors import FlowlitError

EXTRAS = {
    "diffusers": "text",
    "onnx": "export",
    "onnxruntime": "export",
    "onnxscript": "export",
    "open_clip": "text",
    "peft": "text",
    "pyarrow": "text",
    "transformers": "text",
}


def needed(name: str) -> Any:
    """Import a package of an extra, or a module in it.

    Raises:
        FlowlitError: naming the extra, if it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise FlowlitError(
            f"{package} cannot be imported ({error}); pip install 'flowlit[{EXTRAS[package]}]'"
        ) from error
