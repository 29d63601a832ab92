"""Rewards by a frozen network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...errors import FlowlitError
from ...frozen import FrozenLayers
from ...ranges import PositiveInt
from ...types import Cond, ImageDataset
from ..distances import pooled
from .base import Reward

BLOCK = 256
"""Images that are read at a time."""


class ClassifierReward(Reward):
    """Log-probability of an image's label by a frozen classifier.

    Args:
        network: images (B, C, H, W) in [-1, 1] to logits (B, classes), evaluated in float32: that of a
            ``Classifier`` module by ``flowlit.networks.pretrained``, with weights: raw.
        margin: return the label's logit minus the largest other one instead, which does not level off.
    """

    needs_label = True

    def __init__(self, network: nn.Module, margin: bool = False):
        super().__init__()
        self.classifier = FrozenLayers(network, [""])
        self.margin = margin

    def forward(self, x: Tensor, cond: Cond = {}) -> Tensor:
        """Return the rewards (B,) of images x (B, C, H, W) under cond["label"] (B,)."""
        if "label" not in cond:
            raise FlowlitError("ClassifierReward: cond has no 'label'; give the data labels: true")
        logits = self.classifier(x)[""]
        label = cond["label"][:, None]
        own = logits.gather(1, label).squeeze(1)
        if not self.margin:
            return own - logits.logsumexp(1)
        return own - logits.scatter(1, label, -torch.inf).amax(1)


class NearestImages(Reward):
    """Minus the mean distance of an image to the nearest real ones, in features of a frozen network.

    Images of the same class need not be near: it rewards what is typical of any. Copies of real images have
    the largest rewards, so that ``flowlit.callbacks.NearestNeighbours`` belongs beside it.

    Args:
        images: real ones, read at the first call.
        network: takes images (B, C, H, W) in [-1, 1], and is evaluated in float32: that of a ``Classifier``
            module by ``flowlit.networks.pretrained``, with weights: raw.
        layer: name as in ``network.named_modules()``, whose output is averaged over positions.
        k: number of real images that an image is compared with.
    """

    def __init__(self, images: ImageDataset, network: nn.Module, layer: str, k: PositiveInt = 5):
        super().__init__()
        self.images = images
        self.features = FrozenLayers(network, [layer])
        self.layer = layer
        self.k = k
        self._real: Tensor | None = None

    def forward(self, x: Tensor, cond: Cond = {}) -> Tensor:
        """Return the rewards (B,) of images x (B, C, H, W).

        Raises:
            FlowlitError: if there are fewer than k real images.
        """
        if self._real is None:
            self._real = self._read(x.device)
        exact = "donot_use_mm_for_euclid_dist"  # of images that are near each other, too
        distances = torch.cdist(self._of(x), self._real.to(x.device), compute_mode=exact)
        return -distances.topk(self.k, largest=False).values.mean(1)

    def _of(self, x: Tensor) -> Tensor:
        return pooled(self.features(x)[self.layer])

    @torch.no_grad()
    def _read(self, device: torch.device) -> Tensor:
        """Return the features (N, d) of all real images."""
        count = len(self.images)
        if count < self.k:
            raise FlowlitError(
                f"NearestImages: k is {self.k}, but there are {count} images; expected k of them"
            )
        rows = []
        for start in range(0, count, BLOCK):
            block = [self.images[i]["x1"] for i in range(start, min(start + BLOCK, count))]
            rows.append(self._of(torch.stack(block).to(device).float() / 127.5 - 1))
        return torch.cat(rows)
