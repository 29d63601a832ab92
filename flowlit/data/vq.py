"""Latents of an autoencoder with a codebook as x1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import FlowlitError
from ..frozen import Frozen
from ..ranges import PositiveInt
from ..types import Codec
from .codecs import Pixels, from_levels, to_levels
from .latents import image_shape, in_parts, latent_shape


class VQ(Codec):
    """Latents of a frozen autoencoder with a codebook: of latent diffusion's VQ-f4, which is ResShift's.

    x1 (c, H/f, W/f) is what the encoder makes, not rounded to codes; decoding rounds it first. Use it for
    ResShift's published networks.

    Args:
        autoencoder: ``{class_path: flowlit.networks.StoredVQ, init_args: {checkpoint: …}}``.
        at_once: images that are computed together, always so many, so that an image is the same in any batch.

    Raises:
        FlowlitError: for another network.
    """

    rounding = Pixels.rounding

    def __init__(self, autoencoder: nn.Module, at_once: PositiveInt = 4):
        sizes = [getattr(autoencoder, name, None) for name in ("channels", "latents", "factor")]
        if None in sizes or getattr(autoencoder, "fingerprint", None) is None:
            raise FlowlitError(
                f"VQ: found {type(autoencoder).__name__}, expected flowlit.networks.StoredVQ, with a file as "
                "autoencoder_vq_f4.pth"
            )
        self.channels, self.latents, self.factor = (int(size) for size in sizes if size is not None)
        self.at_once = at_once
        self._autoencoder = Frozen(autoencoder)
        self.fingerprint = str(autoencoder.fingerprint)

    @property
    def spec(self) -> dict[str, Any]:
        """Class and arguments that build it again: with these weights, or not at all."""
        described = self._autoencoder.network.spec
        arguments = {"autoencoder": described, "at_once": self.at_once}
        return {"class_path": "flowlit.data.VQ", "init_args": arguments}

    def __repr__(self) -> str:
        return f"VQ({self._autoencoder!r})"

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """uint8 (B, C, H, W) -> float32 (B, c, H/f, W/f)."""
        self.encoded_shape(images.shape[1:])
        return in_parts(lambda x: self._autoencoder(x, "encode"), from_levels(images), self.at_once)

    @torch.no_grad()
    def decode(self, x1: Tensor) -> Tensor:
        """float32 (B, c, h, w) -> uint8 (B, C, f h, f w)."""
        self.decoded_shape(x1.shape[1:])
        return to_levels(in_parts(lambda x: self._autoencoder(x, "decode"), x1.float(), self.at_once))

    def encoded_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape (c, H/f, W/f) of x1 for images of a shape (C, H, W).

        Raises:
            FlowlitError: for images that it does not take.
        """
        return latent_shape("VQ", shape, self.channels, self.latents, self.factor)

    def decoded_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape (C, f h, f w) of images for x1 of a shape (c, h, w).

        Raises:
            FlowlitError: for x1 of other channels.
        """
        return image_shape("VQ", shape, self.channels, self.latents, self.factor)
