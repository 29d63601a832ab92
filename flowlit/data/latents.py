"""Latents of a variational autoencoder as x1."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import FlowlitError
from ..ranges import PositiveInt, Seed
from ..types import Codec
from .autoencoder import Autoencoder
from .codecs import Pixels, from_levels, to_levels


class VAE(Codec):
    """Latents of a frozen autoencoder of diffusers, ``AutoencoderKL`` or ``AutoencoderTiny``.

    x1 is (z - shift) · scale with both factors of its configuration, so that x1 is about N(0, 1) in size: (4,
    H/8, W/8) for Stable Diffusion. Its weights are read when they are first used; checkpoints hold the path
    and stores a hash. ``flowlit[text]``.

    Args:
        folder: of the autoencoder, or of the pipeline that it is a part of.
        precision: in which it computes; "bf16" takes half the memory, and rounds images by about a level.
        tiling: compute large images in overlapping tiles, which takes less memory and changes them a little.
        seed: draw z from the encoder's normal distribution, by this seed and the image's latents alone; None
            takes the mode.
        at_once: images that are computed together, always so many, so that an image is the same in any batch.
    """

    rounding = Pixels.rounding

    def __init__(
        self,
        folder: str,
        precision: Literal["float32", "bf16"] = "float32",
        tiling: bool = False,
        seed: Seed | None = None,
        at_once: PositiveInt = 4,
    ):
        self.folder = folder
        self.precision = precision
        self.tiling = tiling
        self.seed = seed
        self.at_once = at_once

    @property
    def spec(self) -> dict[str, Any]:
        """Class and arguments that build it again."""
        names = ("folder", "precision", "tiling", "seed", "at_once")
        arguments = {name: getattr(self, name) for name in names}
        return {"class_path": "flowlit.data.VAE", "init_args": arguments}

    def __repr__(self) -> str:
        return f"VAE({self.folder!r})"

    @cached_property
    def autoencoder(self) -> Autoencoder:
        """The autoencoder, whose weights are read when they are needed."""
        return Autoencoder(Path(self.folder), self.precision, self.tiling)

    @property
    def fingerprint(self) -> str:
        """Hash of the weights and their configuration."""
        return self.autoencoder.fingerprint

    def encode(self, images: Tensor) -> Tensor:
        """uint8 (B, C, H, W) -> float32 (B, c, H/f, W/f)."""
        self.encoded_shape(images.shape[1:])
        return in_parts(self._latents, from_levels(images), self.at_once)

    def decode(self, x1: Tensor) -> Tensor:
        """float32 (B, c, h, w) -> uint8 (B, C, f h, f w)."""
        with torch.no_grad():
            return to_levels(self.decoded(x1))

    def decoded(self, x1: Tensor) -> Tensor:
        """Return images (B, C, f h, f w) float32 of x1 (B, c, h, w), about [-1, 1], with its gradients."""
        self.decoded_shape(x1.shape[1:])
        inside = self.autoencoder
        return in_parts(inside.decode, x1.float() / inside.scale + inside.shift, self.at_once)

    def encoded_shape(self, shape: Any) -> tuple[int, ...]:
        """Return the shape (c, H/f, W/f) of x1 for images of a shape (C, H, W).

        Raises:
            FlowlitError: for images that it does not take.
        """
        channels = self.autoencoder.config.get("in_channels", 3)
        inside = self.autoencoder
        return latent_shape(repr(self), shape, channels, inside.channels, inside.factor)

    def decoded_shape(self, shape: Any) -> tuple[int, ...]:
        """Return the shape (C, f h, f w) of images for x1 of a shape (c, h, w).

        Raises:
            FlowlitError: for x1 of other channels.
        """
        inside = self.autoencoder
        channels = inside.config.get("out_channels", 3)
        return image_shape(repr(self), shape, channels, inside.channels, inside.factor)

    def _latents(self, images: Tensor) -> Tensor:
        """Return x1 (B, c, h, w) of images (B, C, H, W) in [-1, 1]."""
        mean, deviation = self.autoencoder.encode(images)
        if self.seed is not None and deviation is not None:
            mean = mean + deviation * _noise_of(mean, self.seed)
        return (mean - self.autoencoder.shift) * self.autoencoder.scale


def latent_shape(
    name: str, shape: Sequence[int], channels: int, latents: int, factor: int
) -> tuple[int, int, int]:
    """Return a codec's shape (latents, H/factor, W/factor) of x1 for images of a shape (channels, H, W).

    Raises:
        FlowlitError: for images that it does not take.
    """
    if len(shape) != 3 or shape[0] != channels or shape[1] % factor or shape[2] % factor:
        raise FlowlitError(
            f"{name}: images of shape {tuple(shape)}; expected {channels} channels, and a height and "
            f"width divisible by {factor}"
        )
    return latents, shape[1] // factor, shape[2] // factor


def image_shape(
    name: str, shape: Sequence[int], channels: int, latents: int, factor: int
) -> tuple[int, int, int]:
    """Return a codec's shape (channels, f h, f w) of images for x1 of a shape (latents, h, w).

    Raises:
        FlowlitError: for x1 of other channels.
    """
    if len(shape) != 3 or shape[0] != latents:
        raise FlowlitError(
            f"{name}: x1 of shape {tuple(shape)}; its latents have {latents} channels: a "
            "network works with the autoencoder that it was trained with"
        )
    return channels, shape[1] * factor, shape[2] * factor


def in_parts(function: Callable[[Tensor], Tensor], x: Tensor, at_once: int) -> Tensor:
    """Compute (B, …) -> (B, …), always so many rows at a time: the last ones are filled up."""
    results = []
    for part in x.split(at_once):
        filled = torch.cat([part, part[-1:].expand(at_once - len(part), -1, -1, -1)])
        results.append(function(filled)[: len(part)])
    return torch.cat(results)


def _noise_of(mean: Tensor, seed: int) -> Tensor:
    """Return N(0, 1) noise (B, c, h, w) that follows from a seed and each row's mean (B, c, h, w) alone."""
    rows = []
    for row in mean.cpu():
        digest = hashlib.sha256(row.contiguous().numpy().tobytes() + str(seed).encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
        rows.append(torch.randn(row.shape, generator=generator))
    return torch.stack(rows).to(mean.device)
