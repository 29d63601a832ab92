"""Blocks that a search may leave out: what they cost, and what they are worth."""

from __future__ import annotations

from ..._support.velocities import skipping
from ...errors import FlowlitError
from ...generators import Generator
from ...metrics.cost import shares
from ...networks.activation_checkpointing import with_parts
from ...networks.pruning import harms, states_of
from ...networks.skipping import removable
from ...solvers.search.blocks import Blocks

IMAGES = 16
"""On whose way the harm of each block is measured."""

STEPS = 8
"""Times on that way."""


def blocks_of(generator: Generator, calls: int, limit: int, seed: int) -> Blocks:
    """Return the blocks of a generator's network, whose harm is measured on its own way.

    Args:
        generator: whose network they are of.
        calls: of it, more than the limit.
        limit: what they may cost, in calls of the whole network.
        seed: of the noise.

    Raises:
        FlowlitError: if there are none, or too few for so many calls.
    """
    network = with_parts(generator.network)
    names = removable(network)
    if not names:
        raise FlowlitError(
            f"--calls {calls}: {type(network).__name__} has no block that can be left out; drop --calls"
        )
    with skipping(generator.network, names[:1]):
        pass
    saved = {name: share for name, share in shares(network, names).items() if share > 0}
    blocks = Blocks(saved, {}, limit)
    if calls * blocks.least > limit:
        raise FlowlitError(
            f"--calls {calls} cost {calls * blocks.least:.1f} without all blocks that can be left out; "
            f"expected {int(limit / blocks.least)} at most, or a larger --nfe"
        )
    states = states_of(generator.network, IMAGES, STEPS, seed)
    return Blocks(saved, harms(generator.network, states, list(saved), skipping), limit)
