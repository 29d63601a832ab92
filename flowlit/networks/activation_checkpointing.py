"""Activations that are not kept for the gradient but computed again: less memory, more time. Chen et al. 2016
(1604.06174).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import FlowlitError


def recomputed(part: nn.Module, compute: Callable[..., Tensor], *inputs: Tensor | None) -> Tensor:
    """Compute a part of a network; in training, where ``recompute`` has asked for it, keep only what it was
    given.

    Dropout draws the same numbers in backward as before, and autocast rounds alike: losses and gradients are
    the same bits.
    """
    if part.training and torch.is_grad_enabled() and getattr(part, "_recomputed", False):
        return checkpoint(compute, *inputs, use_reentrant=False)
    return compute(*inputs)


def recompute(network: nn.Module, on: bool = True) -> None:
    """Have the parts of a network computed again in backward, or not. It is in no description, checkpoint or
    fingerprint.

    Args:
        network: one with parts that it tells by ``recomputable()``, or a wrapper around such a network.
        on: whether it is to be so.

    Raises:
        FlowlitError: if it has no such parts.
    """
    for part in recomputable(network):
        part._recomputed = on  # type: ignore[assignment]


def recomputable(network: nn.Module) -> list[nn.Module]:
    """The parts of a network that can be computed again: stages of U-Nets, blocks of transformers.

    Raises:
        FlowlitError: if there are none.
    """
    for module in network.modules():
        if callable(told := getattr(module, "recomputable", None)):
            return list(told())
    raise FlowlitError(
        f"ActivationCheckpointing: {type(network).__name__} has no parts that could be computed again; "
        "UNet, ADM and DiT "
        "have. Leave the "
        "callback out, or give the network a method recomputable(), and "
        "flowlit.networks.recompute.recomputed to the parts"
    )
