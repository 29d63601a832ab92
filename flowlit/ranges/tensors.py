"""Shapes and kinds of tensors, compared without a look at their values: no GPU is waited for."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

from ..errors import FlowlitError
from .kinds import as_whole


def check_pair(pair: Any) -> None:
    """Refuse a pair whose ends would be broadcast, are no real numbers, or have no samples.

    Raises:
        FlowlitError: naming both ends, or the condition that does not fit.
    """
    x0, x1, cond = pair
    if not (_is_real(x0) and _is_real(x1)) or x0.shape != x1.shape:
        raise FlowlitError(
            f"x0 and x1 of a pair are {summary(x0)} and {summary(x1)}; expected real numbers, both "
            "(B, C, H, W)"
        )
    _check_cond(cond, x0.shape[0])


def check_start(velocity: Any, x0: Any, cond: Any, observe: Any, reverse: Any) -> None:
    """Refuse arguments of a solver's call that are of another kind.

    Raises:
        FlowlitError: naming the first of them.
    """
    if not callable(velocity):
        raise FlowlitError(f"velocity is {summary(velocity)}; expected a network or a function (x, t, cond)")
    if not _is_real(x0):
        raise FlowlitError(f"x0 is {summary(x0)}; expected a tensor of real numbers, (B, C, H, W)")
    if observe is not None and not callable(observe):
        raise FlowlitError(f"observe is {summary(observe)}; expected a function (t, x, v)")
    if not isinstance(reverse, bool):
        raise FlowlitError(f"reverse is {reprlib.repr(reverse)}; expected true or false")
    _check_cond(cond, x0.shape[0])


def row_number(index: Any, rows: int) -> int:
    """Return a place in a list of rows, of which -1 is the last.

    Raises:
        FlowlitError: if the index is no whole number.
        IndexError: beyond the ends, where a loop over the rows stops.
    """
    row = as_whole(index)
    if row is None:
        raise FlowlitError(f"row is {reprlib.repr(index)}; expected a whole number")
    if not -rows <= row < rows:
        raise IndexError(f"row {row} of {rows}")
    return row % rows


def summary(value: Any) -> str:
    """Return shape and type of a tensor, or the kind of anything else."""
    if not hasattr(value, "is_floating_point"):
        return f"a {type(value).__name__}"
    return f"{tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"


def _is_real(value: Any) -> bool:
    """Return whether a value is a tensor (B, …) of real numbers, and not empty."""
    real = hasattr(value, "is_floating_point") and value.is_floating_point()
    return bool(real and value.ndim > 1 and value.numel() > 0)


def _check_cond(cond: Any, rows: int) -> None:
    if not isinstance(cond, Mapping):
        raise FlowlitError(f'conditions are {summary(cond)}; expected a dict, as {{"label": tensor}}')
    for name, value in cond.items():
        if not hasattr(value, "is_floating_point") or value.ndim < 1 or value.shape[0] != rows:
            raise FlowlitError(
                f"condition {name!r} is {summary(value)}; expected a tensor ({rows}, …), a row a sample"
            )
