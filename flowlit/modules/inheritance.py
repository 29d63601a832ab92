"""A critic that takes over weights of its generator, to follow it with fewer updates of its own."""

from __future__ import annotations

import torch
from torch import nn

from ..errors import FlowlitError
from ..networks import Discriminator
from ..networks.checkpoints.load import mismatch


def velocity_of(critic: nn.Module) -> nn.Module:
    """Return the critic's network without a discriminator's head."""
    return critic.network if isinstance(critic, Discriminator) else critic


def check_alike(network: nn.Module, critic: nn.Module) -> None:
    """Refuse a critic that cannot take over weights of the generator.

    Raises:
        FlowlitError: saying how they differ.
    """
    difference = mismatch(dict(network.named_parameters()), dict(velocity_of(critic).named_parameters()))
    if difference:
        raise FlowlitError(
            f"Critic: inheritance needs a critic of the generator's architecture, but {difference}; write "
            "inheritance: 0.0, or take a network like the generator's"
        )


@torch.no_grad()
def inherit(network: nn.Module, critic: nn.Module, share: float) -> None:
    """Move the critic's weights by a share of the way to the generator's; a discriminator's head stays."""
    torch._foreach_lerp_(list(velocity_of(critic).parameters()), list(network.parameters()), share)
