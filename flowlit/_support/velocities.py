"""Evaluation of velocities, whose networks may be of any origin."""

from __future__ import annotations

from collections.abc import Container, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ..errors import FlowlitError
from ..ranges.tensors import summary
from ..types import Cond, VelocityField

OWN_CONDITIONS = frozenset({"label", "r", "guidance"})
"""Conditions that need no data: classes, and what objectives draw and generation has a value for."""
DROPPED = frozenset({"label", "text"})
"""Conditions that guidance drops; others hold for both evaluations."""


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


def blank_images(reads: Container[str], x: Tensor) -> dict[str, Tensor]:
    """Return the images among the conditions that are read, of zeros: like x (B, C, H, W), and (B, 3, H, W)
    for "lr".
    """
    blank = {"image": torch.zeros_like(x), "lr": x.new_zeros(x.shape[0], 3, *x.shape[2:])}
    return {name: image for name, image in blank.items() if name in reads}


def skipping(velocity: Any, names: Sequence[str]) -> AbstractContextManager[None]:
    """Have a velocity leave parts of its network out in the calls inside, see ``DescribesItself``.

    Raises:
        FlowlitError: if it has no such parts.
    """
    if not names:
        return nullcontext()
    leave_out = getattr(velocity, "skipping", None)
    if leave_out is None:
        raise FlowlitError(
            f"{type(velocity).__name__} cannot leave blocks out ({', '.join(names)}); expected UNet, ADM or "
            "DiT, or a schedule without skipped"
        )
    return leave_out(names)


def guided(velocity: VelocityField, x: Tensor, t: Tensor, cond: Cond = {}, *, scale: float) -> Tensor:
    """Return v(∅) + scale · (v(cond) - v(∅)), (B, C, H, W) as x, for t (B,) and conditions (B, …).

    Of the conditions, ∅ lacks those in ``DROPPED``. Scales of 0 and 1 take one evaluation, others two. Ho and
    Salimans 2022 (2207.12598).

    Raises:
        FlowlitError: without labels and without text.
    """
    if not DROPPED & set(cond):
        missing = "cond has no 'label' and no 'text'" if cond else "cond is empty"
        raise FlowlitError(
            f"guidance of {_name(velocity)}: nothing to guide with, {missing}; give labels "
            "(data.noise.num_classes), or prompts"
        )
    if scale == 1:
        return evaluate(velocity, x, t, cond)
    free = evaluate(velocity, x, t, {name: value for name, value in cond.items() if name not in DROPPED})
    return free if scale == 0 else torch.lerp(free, evaluate(velocity, x, t, cond), scale)


def _name(velocity: Any) -> str:
    """Return the name of a velocity's class, within wrappers of this package that have no weights."""
    inside = getattr(velocity, "velocity", None) or getattr(velocity, "network", None)
    if inside is not None and type(velocity).__module__.startswith("flowlit."):
        return _name(inside)
    return getattr(velocity, "__name__", type(velocity).__name__)
