"""Autoencoders of diffusers, to be trained: the first stage of latent flows."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor, nn

from ... import rng
from ...errors import FlowlitError
from ...ranges import Checked
from .diffusers_base import built


class DiffusersAutoencoder(Checked, nn.Module):
    """diffusers' ``AutoencoderKL`` with fresh weights, for ``AutoencoderModule``: images there and back.

    Use what was trained by ``flowlit.data.VAE``, which reads the folder. ``flowlit[text]``.

    Args:
        config: as in the config.json of a folder ``vae``; what is absent has diffusers' defaults.

    Raises:
        FlowlitError: for configurations that diffusers refuses, or other channels out than in.
    """

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        entries = {name: value for name, value in config.items() if not name.startswith("_")}
        plain = json.loads(json.dumps(entries))
        self.spec = {
            "class_path": "flowlit.networks.DiffusersAutoencoder",
            "init_args": {"config": plain},
        }
        self.model = built("AutoencoderKL", plain)
        config_now = self.model.config
        size = config_now.sample_size
        if config_now.in_channels != config_now.out_channels or not isinstance(size, int):
            raise FlowlitError(
                f"DiffusersAutoencoder: {config_now.in_channels} channels in and {config_now.out_channels} "
                f"out, sample_size {size!r}; expected equal numbers, and one whole number of pixels a side"
            )
        self.image_shape = (config_now.in_channels, size, size)

    def forward(self, x: Tensor, draw: bool = False) -> tuple[Tensor, Tensor]:
        """Return images again, (B, C, R, R) near [-1, 1], and the latents' divergence from N(0, 1), (B,).

        Args:
            x: images (B, C, R, R) in [-1, 1].
            draw: take latents from the encoder's normal distribution, and not its mean.
        """
        normal = self.model.encode(x).latent_dist
        mean = normal.mean.float()
        log_variance = normal.logvar.float()
        z = mean
        if draw:
            z = mean + (log_variance / 2).exp() * rng.randn_like(mean)
        image = self.model.decode(z, return_dict=False)[0]
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance) / 2
        return image, divergence.flatten(1).mean(1)

    @torch.no_grad()
    def latents(self, x: Tensor) -> Tensor:
        """Return means of latents (B, c, r, r), unscaled, of images (B, C, R, R) in [-1, 1]."""
        return self.model.encode(x).latent_dist.mean.float()
