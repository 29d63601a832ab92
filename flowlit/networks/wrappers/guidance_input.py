"""A velocity with another input: how strongly, and at which times, it is guided."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import FlowlitError
from ...ranges import PositiveFloat, Probability
from ...types import Cond, reads_of, shape_of
from .base import VelocityWrapper
from .concatenated import widened

CHANNELS = 3


class GuidanceInput(VelocityWrapper):
    """A network whose first convolution also takes ``cond["guidance"]``, (B, 3): scale, first and last time.

    One network has all guidances then, and sampling takes one evaluation a step: iMF (2512.02012). They come
    as three constant channels, 1 - 1 / scale and the two times, whose weights begin at 0: at first the
    velocity is that of the network inside. Train it with ``ImprovedMeanFlow``.

    Args:
        network: of which a copy is taken; of classes, with ``label_dropout``, whose convolution ``stem`` has
            x as input: ``UNet``, ``ADM`` or ``DiT``.
        scale: that is generated with where the condition is missing; 1 is none.
        interval: of times, that is generated with.

    Raises:
        FlowlitError: for a network without such a convolution.
    """

    default: Tensor

    def __init__(
        self, network: nn.Module, scale: PositiveFloat = 1.0, interval: Sequence[Probability] = (0.0, 1.0)
    ):
        shape = shape_of(network)
        stem = _stem(network)
        if not isinstance(stem, nn.Conv2d) or shape is None or stem.in_channels != shape[0]:
            raise FlowlitError(
                f"GuidanceInput: {type(network).__name__} has no convolution stem of its C channels; "
                "expected flowlit.networks.UNet, ADM or DiT, or a network with shape = (C, H, W) and one"
            )
        if len(interval) != 2 or interval[0] > interval[1]:
            raise FlowlitError(
                f"GuidanceInput: interval is {list(interval)}; expected two times, [first, last]"
            )
        network = deepcopy(network)
        super().__init__(network, scale=scale, interval=list(interval))
        self.register_buffer("default", torch.tensor([scale, *interval]), persistent=False)
        self.shape = shape
        wider = widened(_stem(network), CHANNELS)
        if isinstance(network.stem, nn.Conv2d):
            network.stem = wider
        else:
            network.stem.proj = wider  # type: ignore[union-attr]
        network.shape = (shape[0] + CHANNELS, *shape[1:])  # type: ignore[assignment]

    @property
    def reads(self) -> frozenset[str]:
        """Names of the conditions of the network inside, and "guidance"."""
        return (reads_of(self.network) or frozenset()) | {"guidance"}

    def forward(self, x: Tensor, t: Tensor, cond: Cond = {}) -> Tensor:
        """Return the velocity (B, C, R, R) at x (B, C, R, R) and t (B,), given cond["guidance"] (B, 3)."""
        guidance = cond.get("guidance")
        if guidance is None:
            guidance = self.default.expand(len(x), CHANNELS)
        strength = torch.cat([1 - 1 / guidance[:, :1], guidance[:, 1:]], 1).to(x.dtype)
        planes = strength[:, :, None, None].expand(-1, -1, *x.shape[2:])
        others = {name: value for name, value in cond.items() if name != "guidance"}
        return self.network(torch.cat([x, planes], 1), t, others)


def _stem(network: nn.Module) -> Any:
    """Return the first convolution of a network, that of patches where it has them."""
    stem = getattr(network, "stem", None)
    return getattr(stem, "proj", stem)
