"""A stage that trains an autoencoder of diffusers, and writes its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from .._engine.sharding import gather, scatter
from .._support.diffusers_folder import is_part
from .._support.files import building
from ..errors import FlowlitError
from ..networks import DiffusersAutoencoder
from ..objectives.distances import per_sample
from ..ranges import NonNegativeFloat
from ..types import Distance, Pair
from .base import CheckpointedModule
from .codec import batches, quality, training_images

MEASURED = 2_000
"""Training images, evenly spaced, by which latents are scaled."""


class AutoencoderModule(CheckpointedModule):
    """Train ``AutoencoderKL`` on images, and write it as diffusers does, for ``flowlit.data.VAE``.

    The loss is the absolute error, a distance if there is one, and the divergence of latents from N(0, 1).
    At the end the folder gets the ``scaling_factor`` that brings latents of training images to size 1.
    Validation reports PSNR, and the distance, of held-out images that were rounded to uint8. No adversary.

    Args:
        network: the autoencoder.
        into: folder to write at the end of a fit; an autoencoder that is there already is replaced.
        optimizer, lr_scheduler: as ``FlowModule``.
        distance: added to the absolute error of an image: ``FeatureDistance`` or another of features.
        weight: of that distance.
        divergence: weight of the divergence, averaged over the entries of a latent.

    Raises:
        FlowlitError: before the first step, for data that are no images of the network's shape, and where
            ``into`` is something else than an autoencoder's folder.
    """

    network: DiffusersAutoencoder

    trains_flow = False

    def __init__(
        self,
        network: DiffusersAutoencoder,
        into: str,
        optimizer: OptimizerCallable = lambda p: torch.optim.Adam(p, lr=1e-3),
        lr_scheduler: LRSchedulerCallable | None = None,
        distance: Distance | None = None,
        weight: NonNegativeFloat = 1.0,
        divergence: NonNegativeFloat = 1e-3,
    ):
        super().__init__(network, optimizer, lr_scheduler)
        self.into = into
        self.distance = distance
        self.weight = weight
        self.divergence = divergence

    def on_fit_start(self) -> None:
        """Refuse data and folders that do not fit."""
        training_images(self)
        target = Path(self.into)
        if target.exists() and not is_part(target):
            raise FlowlitError(
                f"{target} is there, and no autoencoder's folder; remove it, or choose another model.into"
            )

    def training_step(self, pair: Pair, batch_idx: int) -> Tensor:
        """Return the loss of a pair's images, a scalar."""
        image, divergence = self.network(pair.x1, draw=True)
        losses = {"error": per_sample((image - pair.x1).abs()).mean(), "divergence": divergence.mean()}
        losses["loss"] = losses["error"] + self.divergence * losses["divergence"]
        if self.distance is not None:
            losses["distance"] = self.distance(image, pair.x1).mean()
            losses["loss"] = losses["loss"] + self.weight * losses["distance"]
        self.log_training(losses, len(pair.x1))
        return losses["loss"]

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        for name, value in quality(self.network, batch["x1"], self.distance).items():
            self.log(f"val/{name}", value, prog_bar=True, batch_size=len(batch["x1"]), sync_dist=True)

    test_step = validation_step

    def on_fit_end(self) -> None:
        """Write the folder, by the first process; the others wait."""
        gather(self.network)
        if self.trainer.is_global_zero:
            self._write()
        scatter(self.network)
        self.trainer.strategy.barrier()

    def _write(self) -> None:
        model = self.network.model
        device = next(model.parameters()).device
        total = torch.zeros((), dtype=torch.float64)
        count = 0
        training = model.training
        model.eval()
        for x in batches(training_images(self), MEASURED):
            z = self.network.latents(x.to(device)).double().cpu()
            total += z.square().sum()
            count += z.numel()
        size = float((total / count).sqrt())
        model.register_to_config(scaling_factor=1 / size if size else 1.0)
        with building(Path(self.into).resolve(), replaces=is_part) as folder:
            model.save_pretrained(str(folder), safe_serialization=True)
        model.train(training)
