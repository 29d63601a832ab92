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
        pairs = training_images(self)
        if not self.network.measured:
            gather(self.network)
            self.network.measure(batches(pairs))
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
        for name, value in quality(self.network, batch["x1"], self.distance).items():
            self.log(f"val/{name}", value, prog_bar=True, batch_size=len(batch["x1"]), sync_dist=True)

    test_step = validation_step


def quality(network: Any, images: Tensor, distance: Distance | None) -> dict[str, Tensor]:
    """Return how near images, uint8 (B, C, H, W), are to what an autoencoder makes of them: PSNR, and a
    distance, (), of uint8 again.
    """
    x = from_levels(images)
    output = network(x)
    again = to_levels(output[0] if isinstance(output, tuple) else output)
    result = {"psnr": psnr(again, images).clamp_max(PEAK).mean().float()}
    if distance is not None:
        result["feature_distance"] = distance(from_levels(again), x).mean().float()
    return result


def training_images(module: Any) -> Any:
    """Return the training images of a module that trains an autoencoder, rows with "x1" uint8 (C, H, W).

    Raises:
        FlowlitError: for data that are no images of the network's shape.
    """
    data: Any = getattr(module.trainer, "datamodule", None)
    coupling = getattr(data, "coupling", None)
    kind = type(module).__name__
    if not isinstance(coupling, Independent) or not coupling.codec.pixels:
        name = type(coupling).__name__
        codec = getattr(coupling, "codec", None)
        given = f"{name} with the codec {type(codec).__name__}" if codec else name
        raise FlowlitError(
            f"{kind} trains on images, but the coupling is {given}; expected flowlit.couplings.Independent "
            "without a codec"
        )
    shape = tuple(data.pairs[0]["x1"].shape)
    if shape != module.network.image_shape:
        raise FlowlitError(
            f"{kind}: the training images have shape {shape}, the network's image_shape is "
            f"{module.network.image_shape}; make them equal"
        )
    return data.pairs


def batches(pairs: Any, limit: int | None = None) -> Iterator[Tensor]:
    """Yield training images in [-1, 1], (B, C, H, W): all, or about so many, evenly spaced."""
    step = 1 if limit is None else max(len(pairs) // limit, 1)
    chosen = range(0, len(pairs), step)
    starts = range(0, len(chosen), ROWS)
    for start in Bar(starts, desc="codes of the training images", leave=False):
        rows = chosen[start : start + ROWS]
        yield from_levels(torch.stack([pairs[row]["x1"] for row in rows]))
