"""Mirrored pairs: if the flow commutes with a reflection, they are pairs too.

Source: SlimFlow (2407.12718), section 3.1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import rng
from ..errors import FlowlitError
from ..paths.straight import expand
from ..types import Codec, Pair


def flip(pair: Pair, mask: Tensor) -> Pair:
    """Mirror both ends, (B, C, H, W), of the samples where mask (B,) is true along the width; labels stay."""
    mask = expand(mask, pair.x0)
    x0 = torch.where(mask, pair.x0.flip(-1), pair.x0)
    x1 = torch.where(mask, pair.x1.flip(-1), pair.x1)
    return pair._replace(x0=x0, x1=x1)


def random_flip(pair: Pair) -> Pair:
    """Mirror each sample, (C, H, W), with probability ½, a coin of its own for each."""
    return flip(pair, rng.rand(len(pair.x0), pair.x0.device) < 0.5)


def check_flip(flip: bool, codec: Codec) -> None:
    """Refuse to mirror stored or simulated pairs whose x1 are no pixels.

    Raises:
        FlowlitError: because a mirrored latent is not that of the mirrored image.
    """
    if flip and not codec.pixels:
        raise FlowlitError(
            f"flip: true mirrors pixels, but x1 of {type(codec).__name__} are none; set flip: false (images "
            "are mirrored before they are encoded, by flowlit.couplings.Independent)"
        )
