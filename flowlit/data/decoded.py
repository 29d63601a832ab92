"""Distances and rewards of the images that latents stand for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .._support.nearest import nearest
from ..errors import FlowlitError
from ..objectives.rewards import Reward
from ..types import Cond, Distance
from .latents import VAE
from .prompts import Prompts
from .text_encoder import TextEncoder


class DecodedDistance(Distance):
    """Compare latents by their images, as InstaFlow's second distillation does: d(decoded a, decoded b).

    Gradients flow through the frozen decoder to a, and none to b.

    Args:
        codec: of the latents.
        distance: of images (B, C, H, W) near [-1, 1].
    """

    def __init__(self, codec: VAE, distance: Distance):
        super().__init__()
        self.codec = codec
        self.distance = distance

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the distance of each sample, (B,), of latents a and b (B, c, h, w)."""
        with torch.no_grad():
            target = self.codec.decoded(b)
        return self.distance(self.codec.decoded(a), target)


class DecodedReward(Reward):
    """Reward of the images that latents stand for; of labels, too, where there are prompts in their place.

    Args:
        codec: of the latents.
        reward: of images (B, C, H, W) near [-1, 1].
        prompts: prompt k is that of class k: a text has the class of the one whose embedding is the nearest.
            For rewards that look at labels, as a classifier's; with its encoder.
        encoder: of the network's texts.
    """

    def __init__(
        self, codec: VAE, reward: Reward, prompts: Prompts | None = None, encoder: TextEncoder | None = None
    ):
        super().__init__()
        if (prompts is None) != (encoder is None):
            raise FlowlitError("DecodedReward: prompts and encoder belong together; give both or neither")
        self.codec = codec
        self.reward = reward
        self.prompts = prompts
        self.encoder = encoder
        self.differentiable = reward.differentiable  # type: ignore[misc]

    def check(self, network: nn.Module) -> None:
        """Refuse a generator without labels, if there are no prompts either."""
        if self.prompts is None:
            self.reward.check(network)

    def forward(self, x: Tensor, cond: Cond = {}) -> Tensor:
        """Return the rewards (B,) of latents x (B, c, h, w) under conditions (B, …)."""
        if self.prompts is not None:
            cond = {**cond, "label": self._classes(cond)}
        return self.reward(self.codec.decoded(x), cond)

    def _classes(self, cond: Cond) -> Tensor:
        """Return the class (B,) of each text (B, L, D)."""
        if "text" not in cond:
            raise FlowlitError("DecodedReward: cond has no 'text'; give pairs that were made with prompts")
        assert self.prompts is not None and self.encoder is not None
        text = cond["text"]
        centres = self.encoder(self.prompts.texts).to(text.device)
        if centres.shape[1:] != text.shape[1:]:
            raise FlowlitError(
                f"DecodedReward: texts of shape {tuple(text.shape[1:])}, its encoder's have "
                f"{self.encoder.shape}; give the encoder of the pairs"
            )
        return nearest(text, centres)
