"""A network without some of its parts, in whose place their inputs pass."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ...errors import FlowlitError
from ...types import Cond
from ..skipping import Skipped, put, removable
from .base import VelocityWrapper


class Pruned(VelocityWrapper):
    """A network without some of its blocks: (x, t, cond) -> (B, C, H, W).

    Use it for a slim student of a teacher's width; ``flowlit.networks.pruned`` chooses the blocks, and keeps
    the teacher's weights in the others. Here they are as those of the network inside: fresh, if it is.

    Args:
        network: ``UNet``, ``ADM``, ``DiT`` or ``DiffusersUNet``, or a wrapper around one; changed in place.
        without: names of parts in it, as ``bottleneck.0`` or ``blocks.3``, each of which returns what has the
            shape of its input (``removable``).

    Raises:
        FlowlitError: for other names.
    """

    def __init__(self, network: nn.Module, without: Sequence[str]):
        known = removable(network)
        other = next((name for name in without if name not in known), None)
        if other is not None or len(set(without)) < len(without):
            problem = (
                f"{other!r} cannot be left out" if other else f"without names a part twice: {[*without]}"
            )
            raise FlowlitError(f"Pruned: {problem}; expected some of {', '.join(known) or 'no part'}")
        super().__init__(network, without=list(without))
        self.without = tuple(without)
        for name in without:
            put(network, name, Skipped())

    def forward(self, x: Tensor, t: Tensor, cond: Cond = {}) -> Tensor:
        """Return the velocity (B, C, H, W) at x (B, C, H, W) and t (B,), under conditions (B, …)."""
        return self.network(x, t, cond)
