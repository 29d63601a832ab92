"""Stage 0: a classifier, for the features of a Fréchet distance."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from .. import rng
from ..data import Pixels
from ..errors import FlowlitError
from ..networks.checkpoints.spec import spec
from ..ranges import NonNegativeFloat
from ..types import Codec, Cond, Pair
from .base import CheckpointedModule, configured


class Classifier(CheckpointedModule):
    """Classify x1 of a pair by its label; validation reports accuracy on held-out images.

    Args:
        network: x1 (B, C, H, W) -> logits (B, classes); with a method ``features``.
        optimizer, lr_scheduler: as ``FlowModule``.
        noise: standard deviation of Gaussian noise on the training images, so that features are smooth.
        codec: images to x1, the same as that of the coupling; None is ``Pixels``.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: OptimizerCallable = lambda p: torch.optim.Adam(p, lr=1e-3),
        lr_scheduler: LRSchedulerCallable | None = None,
        noise: NonNegativeFloat = 0.0,
        codec: Codec | None = None,
    ):
        super().__init__(network, optimizer, lr_scheduler)
        self.noise = noise
        self.codec = codec or Pixels()

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "codec": spec(self.codec) or configured(self.hparams, "codec")}

    def training_step(self, pair: Pair, batch_idx: int) -> Tensor:
        """Return the cross-entropy of a pair, a scalar."""
        x = pair.x1 + self.noise * rng.randn_like(pair.x1)
        loss = F.cross_entropy(self.network(x), self._labels(pair.cond))
        self.log_training({"loss": loss}, len(x))
        return loss

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        right = self.network(self.codec.encode(batch["x1"])).argmax(1) == self._labels(batch["cond"])
        self.log("val/accuracy", right.float().mean(), prog_bar=True, batch_size=len(right), sync_dist=True)

    test_step = validation_step

    @staticmethod
    def _labels(cond: Cond) -> Tensor:
        if "label" not in cond:
            raise FlowlitError("a classifier needs labels; set labels: true for the images")
        return cond["label"]
