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
    """Mirror both ends, (B, C, H, W), of the samples where mask (B,) is true, along the width. Conditions of
    four dimensions are images, of five paths, and mirrored too; others, such as labels, stay.
    """
    cond = {
        name: mirrored(value, mask) if value.dim() in (4, 5) else value for name, value in pair.cond.items()
    }
    return Pair(mirrored(pair.x0, mask), mirrored(pair.x1, mask), cond)


def mirrored(x: Tensor, mask: Tensor, dim: int = -1) -> Tensor:
    """Mirror the samples of x, (B, C, H, W), where mask (B,) is true: along the width, or another side."""
    return torch.where(expand(mask, x), x.flip(dim), x)


def random_flip(pair: Pair) -> Pair:
    """Mirror each sample, (C, H, W), with probability ½, independently of the others."""
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
