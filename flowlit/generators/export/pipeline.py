"""A generator as a folder of a diffusers pipeline, which stock diffusers runs in any number of steps."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..._support.diffusers_folder import STEM
from ..._support.extras import needed
from ...data import VAE
from ...data.autoencoder import Autoencoder
from ...data.clip_text import CLIPEncoder
from ...data.codecs import to_levels
from ...errors import FlowlitError
from ...networks import DiffusersUNet
from ...networks.checkpoints.pipeline import FACTS
from ...solvers import Euler
from ..core import NoiseToImages
from ..pipeline_folder import check_velocity, errors_only, flow_scheduler, unet_of, write_pipeline
from ..prompts import encoder_of
from .fold import times_of
from .parity import Images, Run

WEIGHTS = f"unet/{STEM}.safetensors"
"""File in the folder by which a pipeline is recognised."""


def check_pipeline(generator: NoiseToImages) -> None:
    """Refuse generators that no stock pipeline can be.

    Raises:
        FlowlitError: naming the part.
    """
    network = generator.network
    if not isinstance(network, DiffusersUNet):
        raise FlowlitError(
            f"the network is {type(network).__name__}; expected a DiffusersUNet as it is, without a wrapper: "
            "guidance is an argument of pipelines (guidance_scale)"
        )
    check_velocity(network)
    codec = generator.codec
    if not isinstance(codec, VAE) or codec.autoencoder.shift:
        raise FlowlitError(
            f"the codec is {codec!r}; expected flowlit.data.VAE without a shift_factor, which pipelines of "
            "Stable Diffusion decode"
        )
    steps = times_of(generator)
    uniform = [index / len(steps) for index in range(len(steps))]
    given = [time for time, _ in steps]
    if type(generator.solver) is not Euler or not torch.allclose(torch.tensor(given), torch.tensor(uniform)):
        raise FlowlitError(
            f"the solver is {generator.solver!r}; expected Euler in equal steps, which the scheduler of the "
            "folder takes: --solver 'Euler(1)'"
        )
    encoder = encoder_of(network)
    if not isinstance(encoder, CLIPEncoder):
        raise FlowlitError(
            f"the text encoder is a {type(encoder).__name__}; expected flowlit.data.CLIPText, which "
            "pipelines of Stable Diffusion have"
        )


def write_folder(generator: NoiseToImages, facts: dict[str, Any], file: Path) -> dict[str, Any]:
    """Write the folder of a pipeline, whose file of weights will be ``file``."""
    network: Any = generator.network
    codec: Any = generator.codec
    folder = file.parent.parent
    autoencoder = Autoencoder(Path(codec.folder)).model  # as it was trained, also where it computes in bf16
    write_pipeline(folder, unet_of(network), autoencoder, encoder_of(network), flow_scheduler())
    (folder / FACTS).write_text(json.dumps(facts, indent=1, allow_nan=False), encoding="utf-8")
    return {}


def run_folder(file: Path) -> Run:
    """Return the pipeline of a folder as a function, run by stock diffusers with the empty prompt."""
    folder = file.parent.parent
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    with errors_only():
        pipeline = needed("diffusers").DiffusionPipeline.from_pretrained(str(folder), local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": facts["nfe"], "guidance_scale": 1.0, "output_type": "latent"}

    def run(noise: Tensor, label: Tensor | None) -> Images:
        with torch.no_grad(), warnings.catch_warnings(action="ignore"):  # of the scheduler's configuration
            x1 = pipeline([""] * len(noise), latents=noise, **options).images
            pixels = pipeline.vae.decode(x1 / pipeline.vae.config.scaling_factor, return_dict=False)[0]
        return Images(to_levels(pixels), x1)

    return run
