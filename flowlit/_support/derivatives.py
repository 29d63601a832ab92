"""Derivatives of networks along a direction."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Function = Callable[..., Tensor]


def along(
    function: Function, points: tuple[Tensor, ...], directions: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """Return f and its derivative along directions at points (B, …), both as f, by forward mode.

    Attention computes by matrix products meanwhile: its fused kernels have no forward derivative. Nothing is
    rounded to half precision by autocast, since a derivative is less exact than its function.
    """
    device = points[0].device.type
    with sdpa_kernel(SDPBackend.MATH), torch.autocast(device, enabled=False):
        both = torch.func.jvp(function, points, directions)
    return both[0], both[1]


def unrounded(device: torch.device) -> torch.autocast:
    """Switch autocast off, for differences of nearly equal values, that half precision would drown."""
    return torch.autocast(device.type, enabled=False)


def differentiating() -> bool:
    """Return whether a forward derivative is being computed, which takes the cost of two evaluations."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def plain(x: Tensor) -> Tensor:
    """Return the values x (any shape) without their forward derivative, with the gradient that they have."""
    while torch._C._functorch.is_gradtrackingtensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x
