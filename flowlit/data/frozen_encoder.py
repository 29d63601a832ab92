"""Latents of a frozen encoder (RAE, SVG): a codec whose weights a stage of its own has trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import FlowlitError
from ..frozen import Frozen
from ..types import Codec
from .codecs import Pixels, from_levels, to_levels


class EncoderLatents(Codec):
    """Encode images by a frozen network, decode its latents by a small one that was trained for that.

    x1 (c, h, w) has mean 0 and variance 1 over the images that it was trained on. ``flowlit fit -c
    experiments/latents/digits.yaml`` trains it. Flows, couplings and flow maps work in it unchanged; where c
    h w is above 4,096, take times from ``flowlit.objectives.times.Shifted``.

    Args:
        autoencoder: ``{class_path: flowlit.networks.StoredAutoencoder, init_args: {checkpoint: …}}``.

    Raises:
        FlowlitError: for another network.
    """

    rounding = Pixels.rounding
    forgives_noise = True  # the decoder is trained with noise on its latents

    def __init__(self, autoencoder: nn.Module):
        shape = getattr(autoencoder, "image_shape", None)
        if shape is None or getattr(autoencoder, "fingerprint", None) is None:
            raise FlowlitError(
                f"EncoderLatents: found {type(autoencoder).__name__}, expected "
                "flowlit.networks.StoredAutoencoder, with the checkpoint of experiments/latents/digits.yaml"
            )
        self.image_shape: tuple[int, ...] = tuple(shape)
        self._autoencoder = Frozen(autoencoder)
        self.fingerprint = str(autoencoder.fingerprint)
        self.shape = tuple(self.encode(torch.zeros(1, *shape, dtype=torch.uint8)).shape[1:])

    @property
    def spec(self) -> dict[str, Any]:
        """Class and arguments that build it again: with these weights, or not at all."""
        described = self._autoencoder.network.spec
        return {"class_path": "flowlit.data.EncoderLatents", "init_args": {"autoencoder": described}}

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """uint8 (B, C, H, W) -> float32 (B, c, h, w)."""
        return self._autoencoder(from_levels(images), "encode").float()

    @torch.no_grad()
    def decode(self, x1: Tensor) -> Tensor:
        """float32 (B, c, h, w) -> uint8 (B, C, H, W).

        Raises:
            FlowlitError: for latents of another shape.
        """
        if tuple(x1.shape[1:]) != self.shape:
            raise FlowlitError(
                f"EncoderLatents: found latents of shape {tuple(x1.shape[1:])}, expected {self.shape}; the "
                "network or its noise is made for another codec"
            )
        return to_levels(self._autoencoder(x1.float(), "decode"))

    def encoded_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape (c, h, w) of latents, the same for the one shape of images (C, H, W) it takes."""
        if tuple(shape) != self.image_shape:
            return super().encoded_shape(shape)  # which refuses them
        return self.shape
