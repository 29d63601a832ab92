"""The straight line between noise (t = 0) and data (t = 1). Liu et al. 2022 (2209.03003), eq. 1."""

from __future__ import annotations

import math

from torch import Tensor

from ..errors import FlowlitError


def expand(t: Tensor, like: Tensor) -> Tensor:
    """Shape times (B,) so that they broadcast over (B, C, H, W).

    >>> import torch
    >>> expand(torch.zeros(2), torch.zeros(2, 3, 8, 8)).shape
    torch.Size([2, 1, 1, 1])
    """
    return t.reshape(-1, *[1] * (like.ndim - 1))


def interpolate(x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
    """Return x_t = (1 - t) x0 + t x1, (B, C, H, W), for t (B,)."""
    t = expand(t, x0)
    return (1 - t) * x0 + t * x1


def endpoint(x: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """Follow v (B, C, H, W) in a straight line from x at t (B,) to the data end: x + (1 - t) v."""
    return x + (1 - expand(t, x)) * v


def anneal(x0: Tensor, noise: Tensor, beta: float) -> Tensor:
    """Mix fresh noise into the noise end, both (B, C, H, W): sqrt(1 - beta²) x0 + beta noise.

    The result is exactly N(0, I) for every beta in [0, 1] if both arguments are; beta = 0 returns x0 itself.
    SlimFlow (2407.12718), section 3.1.

    Raises:
        FlowlitError: if beta, which a schedule may set, is no such share.
    """
    if beta == 0:
        return x0
    if not 0 <= beta <= 1:
        raise FlowlitError(f"anneal: beta is {beta}; expected a share of fresh noise in [0, 1]")
    return math.sqrt(1 - beta**2) * x0 + beta * noise
