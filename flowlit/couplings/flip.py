"""Mirror pairs: if the flow commutes with a reflection, the mirrored pair is a pair too. SlimFlow, section
3.1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import rng
from ..paths.straight import expand
from ..types import Pair


def flip(pair: Pair, mask: Tensor) -> Pair:
    """Mirror both ends of the samples where mask (B,) is true along the width; labels stay."""
    mask = expand(mask, pair.x0)
    return pair._replace(
        x0=torch.where(mask, pair.x0.flip(-1), pair.x0), x1=torch.where(mask, pair.x1.flip(-1), pair.x1)
    )


def random_flip(pair: Pair) -> Pair:
    """Mirror each sample with probability ½, a coin of its own for each."""
    return flip(pair, rng.rand(len(pair.x0), pair.x0.device) < 0.5)
