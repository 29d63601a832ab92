"""Folders of diffusers pipelines, written so that stock diffusers generates from them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from .._support.extras import needed, without_bars
from ..data import RandomCLIPText
from ..errors import FlowlitError
from ..networks.wrappers.diffusers import DiffusersUNet
from ..networks.wrappers.diffusers_base import CLOCK, built
from ..ranges import PositiveInt, Seed, checked

SCHEDULER = "FlowMapEulerDiscreteScheduler"
FLOW = {"num_train_timesteps": int(CLOCK), "shift": 1.0, "init_noise_sigma": 1.0}
"""Of a scheduler whose N steps are those of ``Euler(N)``: at the times 1000 (1 - i / N), and data = x1.

Pipelines of Stable Diffusion multiply their noise by ``init_noise_sigma``, which schedulers of flows have in
their configuration alone.
"""


def flow_scheduler() -> Any:
    """Return the scheduler of a flow: latents go from x to x - (σ - σ') · output, σ from 1 to 0."""
    with errors_only():
        return getattr(needed("diffusers"), SCHEDULER).from_config(FLOW)


def check_velocity(network: DiffusersUNet) -> None:
    """Refuse a network that predicts for a diffusion.

    Raises:
        FlowlitError: saying what to do.
    """
    if network.predicts == "diffusion":
        raise FlowlitError(
            "the network predicts for a diffusion, whose pipeline it is from; expected one that was trained "
            "as a velocity (flowlit.networks.as_velocity)"
        )


def unet_of(network: DiffusersUNet) -> Any:
    """Return diffusers' U-Net of a velocity, with noise - data as its output, as schedulers of flows have it.

    The sign of a network that predicts data - noise goes into its last convolution, which changes no bit of
    the images.

    Raises:
        FlowlitError: as ``check_velocity``.
    """
    check_velocity(network)
    model = deepcopy(network.model).float().eval().requires_grad_(False)
    if network.predicts == "velocity":
        negate(model)
    return model


def negate(unet: Any) -> None:
    """Change the sign of a U-Net's output by its last convolution, in place."""
    with torch.no_grad():
        for parameter in unet.conv_out.parameters():
            parameter.neg_()


def write_pipeline(folder: Path, unet: Any, vae: Any, encoder: Any, scheduler: Any) -> None:
    """Write a ``StableDiffusionPipeline`` of these parts, as diffusers does, with safetensors alone.

    Args:
        folder: to write into.
        unet, vae, scheduler: objects of diffusers.
        encoder: of texts, with ``model()`` and ``tokenizer()``.
    """
    with errors_only():
        pipeline = needed("diffusers").StableDiffusionPipeline(
            vae=vae,
            text_encoder=encoder.model(),
            tokenizer=encoder.tokenizer(),
            unet=unet,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.save_pretrained(str(folder), safe_serialization=True)


TINY_UNET: Mapping[str, Any] = {
    "block_out_channels": [64, 128],
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": 4,
    "norm_num_groups": 16,
    "cross_attention_dim": 64,
}
TINY_VAE: Mapping[str, Any] = {
    "block_out_channels": [32, 64],
    "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 16,
    "latent_channels": 4,
    "scaling_factor": 1.0,
}
STABLE_DIFFUSION = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
"""Of the scheduler of Stable Diffusion 1.x and 2.x."""


@checked
def tiny_pipeline(
    folder: Path,
    resolution: PositiveInt = 32,
    prediction: str = "epsilon",
    seed: Seed = 0,
    unet: Mapping[str, Any] = {},
    vae: Mapping[str, Any] = {},
) -> None:
    """Write a pipeline of Stable Diffusion's form with random weights, of 2 million parameters by default.

    Args:
        folder: to write into.
        resolution: of images; latents have half of it.
        prediction: of the U-Net: "epsilon", "v_prediction", or "flow".
        seed: of the weights.
        unet, vae: entries of their configurations in place of ``TINY_UNET`` and ``TINY_VAE``.
    """
    parts = {**TINY_VAE, **vae}
    halvings = len(parts["block_out_channels"]) - 1
    size = {"sample_size": resolution // 2**halvings}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = built("UNet2DConditionModel", {**TINY_UNET, **size, **unet})
        autoencoder = built("AutoencoderKL", {**parts, "sample_size": resolution})
    encoder = RandomCLIPText(network.config.cross_attention_dim, seed=seed)
    if prediction == "flow":
        scheduler = flow_scheduler()
    else:
        kind = needed("diffusers").DDIMScheduler
        scheduler = kind(**STABLE_DIFFUSION, prediction_type=prediction)
    write_pipeline(folder, network, autoencoder, encoder, scheduler)


@contextlib.contextmanager
def errors_only() -> Iterator[None]:
    """Keep diffusers from remarks on entries of configurations, and both libraries from bars of their own."""
    logger = logging.getLogger("diffusers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with without_bars("diffusers", "transformers"):
            yield
    finally:
        logger.setLevel(level)
