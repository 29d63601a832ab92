"""Evaluation of velocities, whose networks may be of any origin."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..errors import FlowlitError
from ..ranges.tensors import summary
from ..types import Cond, VelocityField


def evaluate(velocity: VelocityField, x: Tensor, t: Tensor, cond: Cond = {}) -> Tensor:
    """Return v(x, t), (B, C, H, W) as x, for t (B,) and conditions (B, …), in the network's precision.

    Another shape would be broadcast. Values are not looked at, since that would wait for a GPU.

    Raises:
        FlowlitError: if the velocity returns anything else than real numbers of the shape of x.
    """
    v = velocity(x, t, cond)
    if isinstance(v, Tensor) and v.shape == x.shape and v.is_floating_point():
        return v
    raise FlowlitError(
        f"the velocity {_name(velocity)} returned {summary(v)}; expected {tuple(x.shape)} of real numbers, "
        "the shape of x"
    )


def _name(velocity: Any) -> str:
    """Return the name of a velocity's class, within wrappers of this package that have no weights."""
    inside = getattr(velocity, "velocity", None) or getattr(velocity, "network", None)
    if inside is not None and type(velocity).__module__.startswith("flowlit."):
        return _name(inside)
    return getattr(velocity, "__name__", type(velocity).__name__)
