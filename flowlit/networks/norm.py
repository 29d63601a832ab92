"""GroupNorm in full precision, which keeps half-precision inputs for the gradient."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Norm(nn.GroupNorm):
    """GroupNorm that computes in float32 at least, also under autocast or with half-precision weights."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (B, C, …) by groups of channels; the result has the shape and the type of x."""
        kind = torch.promote_types(x.dtype, torch.float32)
        weight = self.weight.to(kind)
        bias = self.bias.to(kind)
        if kind != x.dtype and torch.is_grad_enabled() and not transformed():
            return HalfNorm.apply(x, weight, bias, self.num_groups, self.eps)
        return F.group_norm(x.to(kind), self.num_groups, weight, bias, self.eps).to(x.dtype)


class HalfNorm(torch.autograd.Function):
    """GroupNorm in float32 of x in half precision that saves x for the gradient, and not a float32 copy.

    The operations and the numbers are those of PyTorch's own, and so are the bits.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        """Compute x (B, C, …) in half precision, weight and bias (C,) float32 -> the shape and type of x."""
        wide = dense(x.to(weight.dtype))
        y, mean, scale = torch.native_group_norm(wide, weight, bias, *sizes(wide), groups, eps)
        ctx.save_for_backward(x, weight, bias, mean, scale)
        ctx.groups = groups
        ctx.eps = eps
        return y.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, scale = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient is to be differentiated, too, as PyTorch can
            y = F.group_norm(x.to(weight.dtype), ctx.groups, weight, bias, ctx.eps).to(x.dtype)
            return (
                *torch.autograd.grad(y, (x, weight, bias), grads[0], create_graph=True, allow_unused=True),
                None,
                None,
            )
        wide = dense(x.to(weight.dtype))
        grad = grads[0].to(weight.dtype)
        grad = grad.contiguous(memory_format=order(wide))
        wanted = list(ctx.needs_input_grad[:3])
        of_x, of_weight, of_bias = torch.ops.aten.native_group_norm_backward(
            grad, wide, mean, scale, weight, *sizes(wide), ctx.groups, wanted
        )
        return None if of_x is None else of_x.to(x.dtype), of_weight, of_bias, None, None


def transformed() -> bool:
    """Return whether PyTorch's function transforms or forward derivatives are active.

    These are defined for its own operations only.
    """
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0


def order(x: Tensor) -> torch.memory_format:
    """Return the order in memory that GroupNorm's kernels take (B, C, …): on a CPU that of x."""
    last = (
        x.device.type == "cpu"
        and x.ndim == 4
        and x.is_contiguous(memory_format=torch.channels_last)
        and not x.is_contiguous()
    )
    return torch.channels_last if last else torch.contiguous_format


def dense(x: Tensor) -> Tensor:
    """Return x (B, C, …) in the order of ``order``."""
    return x.contiguous(memory_format=order(x))


def sizes(x: Tensor) -> tuple[int, int, int]:
    """Return (B, C, pixels) of images (B, C, …)."""
    return x.shape[0], x.shape[1], math.prod(x.shape[2:])


def norm(channels: int, eps: float = 1e-6) -> Norm:
    """Return ``Norm`` of min(channels / 4, 32) groups, or of the next smaller divisor of the channels."""
    most = max(1, min(channels // 4, 32))
    return Norm(max(g for g in range(1, most + 1) if channels % g == 0), channels, eps=eps)
