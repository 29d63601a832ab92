"""A velocity with a head on its features, whose logits separate real images from a generator's."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .._support.modes import evaluating
from .._support.velocities import evaluate
from ..errors import FlowlitError
from ..frozen import Frozen, check_layers, collected
from ..types import Cond, classes_of, reads_of, shape_of
from .layers import initialise
from .norm import Norm, norm
from .wrappers.base import VelocityWrapper


class Discriminator(VelocityWrapper):
    """A velocity that is also a discriminator: its logits are high for noised real images.

    As a velocity it is the network inside. The logits are those of a head on the features of one layer, by
    default of the network itself (DMD2), which is then trained with the head; a call costs a whole
    evaluation of it. A fresh head returns almost 0.

    Args:
        network: the critic's velocity, called as (x, t, cond).
        layer: features, as in ``network.named_modules()``: maps (B, c, h, w), or tokens (B, h², c). None is
            the end of the bottleneck of a U-Net, also inside wrappers.
        guide: frozen, and absent from checkpoints; its features are taken instead of the network's.
        head: features (B, c, h, w) -> logits (B,) or (B, 1, h, w); None is ``logit_head``.

    Raises:
        FlowlitError: if there is no such layer, or its size has to be measured and the network has no shape.
    """

    def __init__(
        self,
        network: nn.Module,
        layer: str | None = None,
        guide: nn.Module | None = None,
        head: nn.Module | None = None,
    ):
        observed = network if guide is None else guide
        name = bottleneck_of(observed) if layer is None else layer
        check_layers(observed, [name])
        super().__init__(network)
        self.spec = None  # type: ignore[assignment]  # a critic is in no checkpoint of its own
        self.layer = name
        self.guide = None if guide is None else Frozen(guide)
        self.head = head or logit_head(*self._size())

    def forward(self, x: Tensor, t: Tensor, cond: Cond = {}, judge: bool = False) -> Tensor:
        """Return the velocity (B, C, H, W) at x (B, C, H, W) and t (B,); or logits, if it is to judge."""
        return self._judge(x, t, cond) if judge else self.network(x, t, cond)

    def logits(self, x: Tensor, t: Tensor, cond: Cond = {}) -> Tensor:
        """Return log-odds of real images, (B, 1, h, w) or (B,), at x (B, C, H, W) and t (B,)."""
        return self(x, t, cond, judge=True)  # a call, which is counted and gathers what is sharded

    @torch.compiler.disable  # hooks are no part of a graph
    def _judge(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return self.head(self.features(x, t, cond))

    def features(self, x: Tensor, t: Tensor, cond: Cond = {}) -> Tensor:
        """Return the features (B, c, h, w) at x (B, C, H, W) and t (B,), under conditions (B, …)."""
        velocity = self.guide or self.network
        observed = self.network if self.guide is None else self.guide.network
        with collected(observed, [self.layer]) as outputs:
            evaluate(velocity, x, t, cond)
        return as_maps(outputs[self.layer])

    def _size(self) -> tuple[int, int]:
        """Return the channels and pixels a side of the features, by one call."""
        observed = self.network if self.guide is None else self.guide.network
        shape = shape_of(observed)
        if shape is None:
            raise FlowlitError(
                f"Discriminator: {type(observed).__name__} has no shape, so its features cannot be measured; "
                "give model.critic.network.head, or the network an attribute shape"
            )
        some = next(observed.parameters(), torch.zeros(()))
        zeros = torch.zeros(1, dtype=some.dtype, device=some.device)
        reads = reads_of(observed) or ({"label"} if classes_of(observed) else set())
        known = {"label": zeros.long(), "r": zeros}
        with torch.no_grad(), evaluating(self.network):
            cond = {name: known[name] for name in reads if name in known}
            features = self.features(zeros.expand(1, *shape), zeros, cond)
        return features.shape[1], min(features.shape[2:])


def bottleneck_of(network: nn.Module) -> str:
    """Return the name of the last layer of a U-Net's bottleneck.

    Raises:
        FlowlitError: if the network has none.
    """
    for name, module in network.named_modules():
        stages = getattr(module, "bottleneck", None)
        if isinstance(stages, nn.ModuleList):
            return ".".join([*filter(None, [name]), "bottleneck", str(len(stages) - 1)])
    raise FlowlitError(
        f"Discriminator: {type(network).__name__} has no bottleneck; name the layer of its features, e.g. "
        "--model.critic.network.layer blocks.5"
    )


def as_maps(features: Tensor) -> Tensor:
    """Return maps (B, c, h, w) as they are, tokens (B, h², c) as (B, c, h, h), and vectors as (B, c, 1, 1).

    Raises:
        FlowlitError: if the tokens are those of no square.
    """
    if features.dim() == 2:
        return features[:, :, None, None]
    if features.dim() == 4:
        return features
    side = math.isqrt(features.shape[1])
    if features.dim() != 3 or side**2 != features.shape[1]:
        raise FlowlitError(
            f"Discriminator: its layer returns {tuple(features.shape)}; expected maps (B, c, h, w), or "
            "tokens (B, h², c)"
        )
    return features.transpose(1, 2).unflatten(2, (side, side))


def logit_head(channels: int, size: int) -> nn.Sequential:
    """Return a network of maps (B, c, h, h) to logits (B, 1, 1, 1), for channels c and size h.

    Convolutions halve maps above 4×4, and one as large as the rest ends it, as in DMD2 (2405.14867).
    """
    layers: list[nn.Module] = []
    while size > 4:
        layers += [nn.Conv2d(channels, channels, 4, stride=2, padding=1), norm(channels), nn.SiLU()]
        size //= 2
    layers += [nn.Conv2d(channels, channels, size), Norm(1, channels, eps=1e-6), nn.SiLU()]
    return nn.Sequential(*layers, initialise(nn.Conv2d(channels, 1, 1), scale=0))


class ChannelMean(nn.Module):
    """The mean of the channels as logits, without weights of its own. Zhou et al. 2024 (2410.14919), SiDA."""

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 1, h, w) of features x (B, c, h, w)."""
        return x.mean(1, keepdim=True)
