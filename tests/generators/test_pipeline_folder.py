"""Pipelines of diffusers and generators of flowlit: the same pixels of the same noise and prompts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pipelines import UNET, VAE, pipeline
from safetensors.torch import load_file

import flowlit
from flowlit.errors import FlowlitError
from flowlit.generators.pipeline_folder import tiny_pipeline
from flowlit.generators.prompts import encoder_of
from flowlit.networks import ClassifierFreeGuidance
from flowlit.solvers import Euler

diffusers = pytest.importorskip("diffusers", reason="flowlit[text] is not installed")
PROMPTS = ["a red cat", "", "ein Hund 犬 🐕"]


def of_diffusers(folder, noise, prompts, **arguments):
    """Return the images of stock diffusers, uint8 (B, H, W, C)."""
    stock = diffusers.DiffusionPipeline.from_pretrained(folder)
    stock.set_progress_bar_config(disable=True)
    images = stock(list(prompts), latents=noise, output_type="pil", **arguments).images
    return np.stack([np.asarray(image) for image in images])


def channels_last(images):
    return images.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("steps", [1, 3])
def test_stock_diffusers_makes_the_same_pixels_in_any_number_of_steps(steps):
    generator = flowlit.load(pipeline("flow"), solver=Euler(steps))
    noise = generator.noise([1, 2, 3])
    ours = generator.sample(seeds=[1, 2, 3], prompts=PROMPTS)
    theirs = of_diffusers(pipeline("flow"), noise, PROMPTS, num_inference_steps=steps, guidance_scale=1.0)
    assert np.abs(channels_last(ours).astype(int) - theirs).max() <= 1
    assert (channels_last(ours) != theirs).mean() < 1e-3
    assert len({image.numpy().tobytes() for image in ours}) == 3


def test_guidance_is_that_of_stock_diffusers():
    generator = flowlit.load(pipeline("flow"), solver=Euler(2))
    noise = generator.noise([4, 5])
    guided = flowlit.Generator(
        ClassifierFreeGuidance(generator.network, 3.0), generator.solver, generator.codec
    )
    ours = guided(noise, {"text": encoder_of(generator.network)(PROMPTS[:2])})
    theirs = of_diffusers(pipeline("flow"), noise, PROMPTS[:2], num_inference_steps=2, guidance_scale=3.0)
    assert np.abs(channels_last(ours).astype(int) - theirs).max() <= 1


def test_a_pipeline_without_a_solver_says_what_to_give():
    with pytest.raises(FlowlitError, match="names no solver; give one"):
        flowlit.load(pipeline("epsilon"))


def test_random_weights_follow_from_the_seed_alone(tmp_path):
    before = torch.random.get_rng_state()
    tiny_pipeline(tmp_path / "again", 16, "flow", 0, UNET, VAE)
    assert torch.equal(torch.random.get_rng_state(), before)
    again, same, other = (
        load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")["conv_in.weight"]
        for folder in (tmp_path / "again", pipeline("flow"), pipeline("flow", 1))
    )
    assert torch.equal(again, same)
    assert not torch.equal(again, other)
