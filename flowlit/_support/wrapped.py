"""Networks inside wrappers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def inside(network: Any) -> Iterator[Any]:
    """Yield a network, and what its wrappers have inside, from the outermost inwards."""
    while network is not None:
        yield network
        network = getattr(network, "network", None)


def first_inside(network: Any, name: str, kind: type = object) -> Any:
    """Return an attribute of a kind of a network, or else of what its wrappers have inside; None without."""
    values = (getattr(part, name, None) for part in inside(network))
    return next((value for value in values if value is not None and isinstance(value, kind)), None)
