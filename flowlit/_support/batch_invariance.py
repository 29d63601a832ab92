"""The same bits for a sample in any batch.

Matrix kernels add the last rows of a batch, which do not fill a block, in another order than the others, so
that the last bits of a sample depend on how many there are. Padded to whole blocks they do not; see
docs/protocol.md for where this was checked. So a large batch may as well be taken in parts, which on a CPU
saves up to half the time: activations of more leave its caches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from ..types import Cond, VelocityField, evaluations_of, label_dropout_of, reads_of
from .nested import rows_of
from .velocities import evaluate, skipping

BLOCK = 16
"""Rows that kernels take at a time, on every machine where this was measured."""

PIXELS = 2**14
"""Height times width times images that a network computes at a time on a CPU; see docs/performance.md."""


def whole_blocks(rows: int, device: torch.device | str = "cpu") -> Tensor:
    """Index rows 0 … rows - 1, and the last one again until blocks are whole.

    >>> len(whole_blocks(7)), len(whole_blocks(32))
    (16, 32)
    """
    return torch.arange(rows + -rows % BLOCK, device=device).clamp_max(rows - 1)


def parts(images: Tensor) -> list[slice]:
    """Return rows of images (B, C, H, W) to compute at a time: all on a GPU, about ``PIXELS`` on a CPU.

    >>> parts(torch.zeros(40, 3, 32, 32))
    [slice(0, 16, None), slice(16, 32, None), slice(32, 48, None)]
    """
    rows = number = max(1, len(images))
    if images.device.type == "cpu":
        rows = max(BLOCK, PIXELS // math.prod(images.shape[2:]) // BLOCK * BLOCK)
    return [slice(first, first + rows) for first in range(0, number, rows)]


class BatchInvariant:
    """A velocity that is evaluated on whole blocks of rows only, of which at most 15 rows are in vain.

    Of several students (``Router``) each is.
    """

    def __init__(self, velocity: VelocityField):
        self.velocity = velocity
        self.evaluations = evaluations_of(velocity)
        self.label_dropout = label_dropout_of(velocity)

    @property
    def reads(self) -> frozenset[str] | None:
        """Names of the conditions that the velocity reads."""
        return reads_of(self.velocity)

    def skipping(self, names: Sequence[str]) -> AbstractContextManager[None]:
        """Leave parts of the network inside out in the calls inside."""
        return skipping(self.velocity, names)

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = {}) -> Tensor:
        routed = getattr(self.velocity, "routed", None)
        if routed is not None:  # blocks of rows of one student
            return routed(x, t, cond, BatchInvariant)
        if len(x) % BLOCK:
            rows = whole_blocks(len(x), x.device)
            return self(x[rows], t[rows], rows_of(cond, rows))[: len(x)]
        slices = parts(x)
        if len(slices) < 2:
            return evaluate(self.velocity, x, t, cond)
        return torch.cat([evaluate(self.velocity, x[rows], t[rows], rows_of(cond, rows)) for rows in slices])


def in_blocks(function: Callable[[Tensor], tuple[Any, ...]], images: Tensor) -> tuple[Any, ...]:
    """Call a function of images (B, …) that returns tensors (B, …), or None, on whole blocks."""
    padded = images[whole_blocks(len(images), images.device)]
    results = zip(*(function(padded[part]) for part in parts(padded)), strict=True)
    return tuple(None if values[0] is None else torch.cat(values)[: len(images)] for values in results)
