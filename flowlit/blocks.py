"""The same bits for a sample in any batch.

Matrix kernels add the last rows of a batch, which do not fill a block, in another order than the others, so that the last bits
of a sample depend on how many there are. Padded to whole blocks they do not; see docs/protocol.md for where this was checked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .types import Cond, VelocityField

BLOCK = 16
"""Rows that kernels take at a time, on every machine that we know."""


def whole_blocks(rows: int, device: torch.device | str = "cpu") -> Tensor:
    """Index rows 0 … rows - 1, and the last one again until blocks are whole.

    >>> len(whole_blocks(7)), len(whole_blocks(32))
    (16, 32)
    """
    return torch.arange(rows + -rows % BLOCK, device=device).clamp_max(rows - 1)


class InBlocks:
    """A velocity that is evaluated on whole blocks of rows only; at most 15 rows are computed in vain."""

    def __init__(self, velocity: VelocityField):
        self.velocity = velocity
        self.evaluations = getattr(velocity, "evaluations", 1)

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = {}) -> Tensor:
        if len(x) % BLOCK == 0:
            return self.velocity(x, t, cond)
        rows = whole_blocks(len(x), x.device)
        return self.velocity(x[rows], t[rows], {key: value[rows] for key, value in cond.items()})[: len(x)]


def in_blocks(function: Callable[[Tensor], tuple[Any, ...]], images: Tensor) -> tuple[Any, ...]:
    """Call a function of images (B, …) that returns tensors (B, …), or None, on whole blocks."""
    found = function(images[whole_blocks(len(images), images.device)])
    return tuple(value if value is None else value[: len(images)] for value in found)
