"""Activations that are computed again in backward: less memory, more time. Chen et al. 2016 (1604.06174)."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .._support.derivatives import differentiating
from ..errors import FlowlitError

absent: ContextVar[frozenset[nn.Module]] = ContextVar("absent", default=frozenset())
"""Parts that are left out for now, see ``skipping``; of this thread alone."""


def recomputed(part: nn.Module, compute: Callable[..., Tensor], *inputs: Tensor | None) -> Tensor:
    """Compute a part of a network, (B, …) -> (B, …); in training after ``recompute``, keep its inputs only.

    Dropout draws the same numbers in backward as before, and autocast rounds alike: losses and gradients are
    the same bits. A forward derivative keeps all, since PyTorch cannot compute it again. In the place of a
    part that is left out its first input passes.
    """
    if part in absent.get() and inputs[0] is not None:
        return inputs[0]
    wanted = part.training and torch.is_grad_enabled() and getattr(part, "_recomputed", False)
    if wanted and not differentiating():
        return checkpoint(compute, *inputs, use_reentrant=False)
    return compute(*inputs)


def recompute(network: nn.Module, on: bool = True) -> None:
    """Compute the parts of a network again in backward, or keep their activations.

    The choice is in no spec, checkpoint or fingerprint.

    Args:
        network: one that has ``checkpointable()`` parts, or a wrapper around such a network.
        on: False keeps activations again.

    Raises:
        FlowlitError: if it has no such parts.
    """
    for part in checkpointable(network):
        part._recomputed = on  # type: ignore[assignment]


def checkpointable(network: nn.Module) -> list[nn.Module]:
    """Return the parts of a network that can be computed again: stages of U-Nets, blocks of transformers.

    Raises:
        FlowlitError: if there are none.
    """
    return list(with_parts(network).checkpointable())  # type: ignore[operator]


def with_parts(network: nn.Module) -> nn.Module:
    """Return the network with such parts: itself, or one inside.

    Raises:
        FlowlitError: if there is none.
    """
    for module in network.modules():
        if callable(getattr(module, "checkpointable", None)):
            return module
    raise FlowlitError(
        f"ActivationCheckpointing: {type(network).__name__} has no parts that could be computed again; "
        "UNet, ADM and DiT have. Leave the callback out, or give the network a method checkpointable(), and "
        "flowlit.networks.activation_checkpointing.recomputed to the parts"
    )
