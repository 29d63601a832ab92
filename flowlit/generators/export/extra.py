"""Packages of the extra ``flowlit[export]``, imported where they are used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ...errors import FlowlitError


def needed(name: str) -> Any:
    """Import a package of the extra.

    Raises:
        FlowlitError: naming the extra, if it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise FlowlitError(
            f"{name.partition('.')[0]} cannot be imported ({error}); pip install 'flowlit[export]'"
        ) from error
