"""Stage 0: a network for the features of a Fréchet distance, trained with labels or without."""

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
from ..ranges import NonNegativeFloat, PositiveFloat
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


class Contrastive(Classifier):
    """Find to each crop of an image another crop of it, among those of the batch and spoilt copies of all.

    It needs no labels: it makes features of one's own images. Chen et al. 2020 (2002.05709), where colours
    stay as they are, and with blurred and noisy copies of the crops among the candidates: features see both.
    Validation reports the share that is found on held-out images, for two fixed crops among those of a batch.

    Args:
        network: x1 (B, C, H, W) -> (B, d); with a method ``features``.
        temperature: of the similarities.
        optimizer, lr_scheduler, noise, codec: as ``Classifier``.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: OptimizerCallable = lambda p: torch.optim.Adam(p, lr=1e-3),
        lr_scheduler: LRSchedulerCallable | None = None,
        noise: NonNegativeFloat = 0.0,
        codec: Codec | None = None,
        temperature: PositiveFloat = 0.2,
    ):
        super().__init__(network, optimizer, lr_scheduler, noise, codec)
        self.temperature = temperature

    def training_step(self, pair: Pair, batch_idx: int) -> Tensor:
        """Return the cross-entropy of each crop's similarities to the candidates, a scalar."""
        if len(pair.x1) < 2:
            raise FlowlitError("Contrastive: a batch of one image shows no difference; raise batch_size")
        views = [random_crop(pair.x1) for _ in range(2)]
        first, second = (view + self.noise * rng.randn_like(view) for view in views)
        similar = self.similarities(first, torch.cat([second, spoilt(second)]))
        loss = F.cross_entropy(similar, torch.arange(len(first), device=first.device))
        self.log_training({"loss": loss}, len(first))
        return loss

    def similarities(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the cosines of all pairs of images, (A, B), divided by the temperature."""
        a, b = (F.normalize(self.network(images).float(), dim=1) for images in (a, b))
        return a @ b.T / self.temperature

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        x = self.codec.encode(batch["x1"])
        height, width = (side - side // 4 for side in x.shape[2:])
        similar = self.similarities(x[..., :height, :width], x[..., -height:, -width:])
        right = similar.argmax(1) == torch.arange(len(x), device=x.device)
        self.log("val/accuracy", right.float().mean(), prog_bar=True, batch_size=len(x), sync_dist=True)

    test_step = validation_step


def random_crop(x: Tensor) -> Tensor:
    """Cut three quarters of the sides of each image (B, C, H, W) at a random place, and mirror half of them.

    Pixels stay as they are: features of enlarged crops would not see blur.
    """
    count, _, height, width = x.shape
    rows = _positions(count, height, x.device)
    columns = _positions(count, width, x.device)
    mirror = rng.randint(2, count, x.device)[:, None] == 1
    columns = torch.where(mirror, columns.flip(1), columns)
    image = torch.arange(count, device=x.device)[:, None, None]
    return x[image, :, rows[:, :, None], columns[:, None]].movedim(-1, 1)


def _positions(count: int, side: int, device: torch.device) -> Tensor:
    """Return three quarters of the positions on a side, in order from a random one on, (count, positions)."""
    return rng.randint(side // 4 + 1, count, device)[:, None] + torch.arange(side - side // 4, device=device)


def spoilt(x: Tensor) -> Tensor:
    """Blur images (B, C, H, W) or put noise on them, by chance, each as strongly as is drawn."""
    strength = rng.rand(len(x), x.device)[:, None, None, None]
    blurs = rng.rand(len(x), x.device)[:, None, None, None] < 0.5
    blurred = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
    noisy = x + 0.02 * 10**strength * rng.randn_like(x)
    return torch.where(blurs, torch.lerp(x, blurred, 0.3 + 0.7 * strength), noisy)
