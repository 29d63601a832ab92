"""A stage that trains a codec: the decoder of latents, and the branch for detail, on a frozen encoder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from .. import rng
from .._engine.sharding import gather, scatter
from .._support.progress import Bar
from ..couplings import Independent
from ..data.codecs import from_levels, to_levels
from ..errors import FlowlitError
from ..metrics.paired import psnr
from ..networks import LatentAutoencoder
from ..objectives.distances import per_sample
from ..ranges import NonNegativeFloat
from ..types import Distance, Pair
from .base import CheckpointedModule

ROWS = 500
PEAK = 100.0
"""dB that count for an image without an error."""


class CodecModule(CheckpointedModule):
    """Train an autoencoder of latents to give images back, also from latents with noise on them.

    The encoder is frozen, and what it makes of the training images is measured once, before the first step.
    Validation reports PSNR, and the distance, of held-out images that were rounded to uint8. Use the result
    by ``flowlit.data.EncoderLatents``.

    Args:
        network: encoder, branch and decoder.
        optimizer, lr_scheduler: as ``FlowModule``; of the branch and the decoder.
        distance: added to the absolute error of an image: ``FeatureDistance`` or another of features.
        weight: of that distance.
        noise: τ of the decoder's inputs z + σ ε, σ uniform in [0, τ] for each image; only in training. 0.8 in
            RAE. A decoder learns by it to forgive the errors of a flow, and gives away some PSNR.

    Raises:
        FlowlitError: before the first step, for data that are no images of the network's shape.
    """

    network: LatentAutoencoder

    trains_flow = False

    def __init__(
        self,
        network: LatentAutoencoder,
        optimizer: OptimizerCallable = lambda p: torch.optim.Adam(p, lr=1e-3),
        lr_scheduler: LRSchedulerCallable | None = None,
        distance: Distance | None = None,
        weight: NonNegativeFloat = 1.0,
        noise: NonNegativeFloat = 0.8,
    ):
        super().__init__(network, optimizer, lr_scheduler)
        self.distance = distance
        self.weight = weight
        self.noise = noise

    def on_fit_start(self) -> None:
        """Measure the encoder's codes of all training images, unless a checkpoint has brought that."""
        data: Any = getattr(self.trainer, "datamodule", None)
        coupling = getattr(data, "coupling", None)
        if not isinstance(coupling, Independent) or not coupling.codec.pixels:
            name = type(coupling).__name__
            codec = getattr(coupling, "codec", None)
            given = f"{name} with the codec {type(codec).__name__}" if codec else name
            raise FlowlitError(
                f"CodecModule trains on images, but the coupling is {given}; expected "
                "flowlit.couplings.Independent without a codec"
            )
        pairs = data.pairs
        shape = tuple(pairs[0]["x1"].shape)
        if shape != self.network.image_shape:
            raise FlowlitError(
                f"CodecModule: the training images have shape {shape}, the network's image_shape is "
                f"{self.network.image_shape}; make them equal"
            )
        if not self.network.measured:
            gather(self.network)
            self.network.measure(_batches(pairs))
            scatter(self.network)

    def training_step(self, pair: Pair, batch_idx: int) -> Tensor:
        """Return the loss of a pair's images, a scalar."""
        x = pair.x1
        z = self.network(x, "encode")
        sigma = self.noise * rng.rand(len(z), z.device)[:, None, None, None]
        image = self.network(z + sigma * rng.randn_like(z), "decode")
        error = per_sample((image - x).abs()).mean()
        losses = {"loss": error, "error": error}
        if self.distance is not None:
            losses["distance"] = self.distance(image, x).mean()
            losses["loss"] = error + self.weight * losses["distance"]
        self.log_training(losses, len(x))
        return losses["loss"]

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        images = batch["x1"]
        x = from_levels(images)
        again = to_levels(self.network(x))
        quality = {"psnr": psnr(again, images).clamp_max(PEAK).mean()}
        if self.distance is not None:
            quality["feature_distance"] = self.distance(from_levels(again), x).mean()
        for name, value in quality.items():
            self.log(f"val/{name}", value.float(), prog_bar=True, batch_size=len(x), sync_dist=True)

    test_step = validation_step


def _batches(pairs: Any) -> Iterator[Tensor]:
    """Yield all training images in [-1, 1], (B, C, H, W)."""
    starts = range(0, len(pairs), ROWS)
    for start in Bar(starts, desc="codes of the training images", leave=False):
        rows = range(start, min(start + ROWS, len(pairs)))
        yield from_levels(torch.stack([pairs[row]["x1"] for row in rows]))
