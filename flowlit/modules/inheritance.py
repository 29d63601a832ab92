"""A critic that takes over weights of its generator, to follow it with fewer updates of its own."""

from __future__ import annotations

import torch
from torch import nn

from ..errors import FlowlitError
from ..networks.checkpoints.load import mismatch


def check_alike(network: nn.Module, critic: nn.Module) -> None:
    """Refuse a critic that cannot take over weights of the generator.

    Raises:
        FlowlitError: saying how they differ.
    """
    difference = mismatch(dict(network.named_parameters()), dict(critic.named_parameters()))
    if difference:
        raise FlowlitError(
            f"Critic: inheritance needs a critic of the generator's architecture, but {difference}; write "
            "inheritance: 0.0, or take a network like the generator's"
        )


@torch.no_grad()
def inherit(network: nn.Module, critic: nn.Module, share: float) -> None:
    """Move the critic's weights by a share of the way to the generator's."""
    torch._foreach_lerp_(list(critic.parameters()), list(network.parameters()), share)
