"""Nested configurations as flat ones, and rows of nested batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings and lists to dotted keys.

    >>> flatten({"a": {"b": 1}, "c": [2, 3]})
    {'a.b': 1, 'c.0': 2, 'c.1': 3}
    """
    if not isinstance(node, (dict, list)) or not node:
        return {prefix: node}
    items = node.items() if isinstance(node, dict) else enumerate(node)
    flat: dict[str, Any] = {}
    for key, value in items:
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def rows_of(node: Any, rows: Any) -> Any:
    """Return the rows of all tensors (B, …) of a named tuple or a mapping, and of those inside it.

    Args:
        node: a batch, its conditions, or one tensor.
        rows: a slice, indices or a mask.
    """
    if isinstance(node, Mapping):
        return {name: rows_of(value, rows) for name, value in node.items()}
    return type(node)(*(rows_of(value, rows) for value in node)) if isinstance(node, tuple) else node[rows]
