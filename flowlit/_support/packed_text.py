"""Texts of several parts, or of few tokens, in the one tensor (B, L, D) that conditions and stores hold."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


def rows_of_pooled(width: int, tokens: int) -> int:
    """Return the rows that a pooled embedding of a width takes among tokens of theirs.

    >>> rows_of_pooled(2048, 4096), rows_of_pooled(5, 2)
    (1, 3)
    """
    return -(-width // tokens)


def packed(tokens: Tensor, pooled: Tensor) -> Tensor:
    """Return tokens (B, L, D) and, in further rows that zeros fill up, a pooled embedding (B, P)."""
    width = tokens.shape[2]
    rows = rows_of_pooled(pooled.shape[1], width)
    filled = F.pad(pooled, (0, rows * width - pooled.shape[1])).view(len(pooled), rows, width)
    return torch.cat([tokens, filled.to(tokens.dtype)], 1)


def unpacked(text: Tensor, pooled: int) -> tuple[Tensor, Tensor]:
    """Return the tokens (B, L, D) and the pooled embedding (B, ``pooled``) of texts (B, L + rows, D)."""
    rows = rows_of_pooled(pooled, text.shape[2])
    return text[:, :-rows], text[:, -rows:].flatten(1)[:, :pooled]


def lengths(text: Tensor) -> list[int]:
    """Return the tokens of texts (B, L, D): rows up to the last that is not zero, one at least.

    >>> lengths(torch.tensor([[[1.0], [0.0], [2.0], [0.0]], [[0.0], [0.0], [0.0], [0.0]]]))
    [3, 1]
    """
    length = text.shape[1]
    if isinstance(text, FakeTensor):  # shapes alone are followed
        return [length] * len(text)
    present = text.ne(0).any(2)
    last = torch.arange(1, length + 1, device=text.device) * present
    return last.amax(1).clamp_min(1).tolist()
