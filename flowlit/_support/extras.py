"""Packages of optional extras, imported where they are used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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
    "torchao": "export",
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


@contextmanager
def without_bars(*names: str) -> Iterator[None]:
    """Keep diffusers or transformers from drawing bars of their own.

    Args:
        names: of the packages.
    """
    logs = [needed(name).utils.logging for name in names]
    shown = [each for each in logs if each.is_progress_bar_enabled()]
    for each in shown:
        each.disable_progress_bar()
    try:
        yield
    finally:
        for each in shown:
            each.enable_progress_bar()
