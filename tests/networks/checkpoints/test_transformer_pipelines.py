"""Teachers whose network is a velocity already: Stable Diffusion 3's and Z-Image's transformers."""

from __future__ import annotations

import shutil

import pytest
import torch
from pipelines import change
from transformer_pipelines import sd3_pipeline, z_image_pipeline

from flowlit import load
from flowlit._support.packed_text import lengths, packed, unpacked
from flowlit.data import SD3Text, ZImageText
from flowlit.errors import FlowlitError
from flowlit.networks import ClassifierFreeGuidance, as_velocity, pretrained
from flowlit.solvers import Euler
from flowlit.solvers.grids import Given, Shifted

diffusers = pytest.importorskip("diffusers", reason="flowlit[text] is not installed")
pytest.importorskip("transformers", reason="flowlit[text] is not installed")

PROMPTS = ["a red cat", "dog"]
WITHOUT_THIRD = {"text_encoder_3": None, "tokenizer_3": None}
FAMILIES = {"sd3": sd3_pipeline, "sd3 without t5": lambda: sd3_pipeline(False), "z": z_image_pipeline}


def noise(rows=2):
    return torch.randn(rows, 4, 8, 8, generator=torch.Generator().manual_seed(5))


def stock(folder):
    third = {} if (folder / "text_encoder_3").is_dir() or folder.name == "z_image" else WITHOUT_THIRD
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, **third)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def copied(tmp_path):
    return lambda folder: shutil.copytree(folder, tmp_path / "copy")


def test_a_pooled_embedding_travels_in_rows_of_its_own():
    tokens, pooled = torch.randn(3, 5, 4), torch.randn(3, 6)
    text = packed(tokens, pooled)
    assert text.shape == (3, 7, 4)
    again = unpacked(text, 6)
    assert torch.equal(again[0], tokens) and torch.equal(again[1], pooled)
    assert lengths(torch.tensor([[[0.0], [1.0], [0.0]], [[0.0], [0.0], [0.0]]])) == [2, 1]


@pytest.mark.parametrize("with_t5", [True, False])
def test_texts_of_stable_diffusion_3_are_those_of_diffusers(with_t5):
    folder = sd3_pipeline(with_t5)
    tokens, _, pooled, _ = stock(folder).encode_prompt(PROMPTS, None, None, do_classifier_free_guidance=False)
    encoder = SD3Text(str(folder))
    text = encoder(PROMPTS)
    assert text.shape == (2, *encoder.shape) == (2, 77 + 256 + 2, 24)
    found = unpacked(text, 28)
    torch.testing.assert_close(found[0], tokens)
    torch.testing.assert_close(found[1], pooled)
    assert torch.equal(encoder([PROMPTS[1]])[0], text[1])
    assert SD3Text(str(folder)).fingerprint == encoder.fingerprint


def test_texts_of_z_image_are_those_of_diffusers():
    encoder = ZImageText(str(z_image_pipeline()), length=40)
    expected, _ = stock(z_image_pipeline()).encode_prompt(list(PROMPTS), do_classifier_free_guidance=False)
    text = encoder(PROMPTS)
    assert text.shape == (2, 40, 16) and lengths(text) == [len(each) for each in expected] == [15, 9]
    for row, each in zip(text, expected, strict=True):
        torch.testing.assert_close(row[: len(each)], each)
    assert encoder([""]).abs().amax() > 0, "a message without words has tokens, too"


def test_a_longer_prompt_is_cut_which_is_said_once(caplog):
    encoder = ZImageText(str(z_image_pipeline()), length=9)
    first = encoder(["a red cat"])[0]
    assert torch.equal(first, encoder(["a red dog"])[0])
    assert [record.getMessage() for record in caplog.records] == [
        "the prompt '<u>a red cat<e>' has 15 tokens, of which Qwen2 reads 9: it is cut there, and so are "
        "others like it"
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_velocity_is_that_of_diffusers_own_scheduler(family):
    """One step of ``FlowMatchEulerDiscreteScheduler`` from σ to σ' is one of Euler's from 1 - σ to 1 - σ'."""
    folder = FAMILIES[family]()
    network, pipeline = pretrained(str(folder)), stock(folder)
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(4)
    x, text = noise(), network_texts(network)
    for place, time in enumerate(scheduler.timesteps):
        t = (1 - scheduler.sigmas[place]).expand(2)
        velocity = network(x, t, {"text": text})
        output = raw_output(pipeline, x, time)
        stepped = scheduler.step(output, time, x, return_dict=False)[0]
        step = scheduler.sigmas[place] - scheduler.sigmas[place + 1]
        torch.testing.assert_close(x + step * velocity, stepped, rtol=1e-4, atol=1e-4)
        x = stepped


def network_texts(network):
    from flowlit.generators.prompts import encoder_of

    return encoder_of(network)(PROMPTS)


def raw_output(pipeline, x, time):
    """noise - data as the pipelines compute it."""
    with torch.no_grad():
        if isinstance(pipeline, diffusers.StableDiffusion3Pipeline):
            tokens, _, pooled, _ = pipeline.encode_prompt(
                PROMPTS, None, None, do_classifier_free_guidance=False
            )
            return pipeline.transformer(x, tokens, pooled, time.expand(2), return_dict=False)[0]
        texts, _ = pipeline.encode_prompt(list(PROMPTS), do_classifier_free_guidance=False)
        output = pipeline.transformer(list(x[:, :, None]), ((1000 - time) / 1000).expand(2), texts)
        return -torch.stack(list(output.sample))[:, :, 0]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "scale"), [("sd3", 4.0), ("sd3", 1.0), ("z", 0.0), ("z", 3.0)])
def test_the_same_samples_as_the_stock_pipeline(family, scale):
    """With its own guidance: Z-Image counts from the conditional velocity on, v + scale (v - v(∅))."""
    folder = FAMILIES[family]()
    pipeline = stock(folder)
    sizes = {"height": 16, "width": 16, "latents": noise(), "num_inference_steps": 4}
    x1 = pipeline(list(PROMPTS), guidance_scale=scale, output_type="latent", **sizes).images
    ours = load(str(folder), solver=Euler(4))
    guided = ClassifierFreeGuidance(ours.network, scale if family == "sd3" else 1 + scale)
    times = [float(1 - sigma) for sigma in pipeline.scheduler.sigmas]
    solver = Euler(4, grid=Given(times))
    with torch.no_grad():
        found = solver(guided, noise(), {"text": network_texts(ours.network)}).x1
    torch.testing.assert_close(found, x1, rtol=1e-3, atol=1e-4)
    pixels = pipeline.vae.decode(x1 / 0.7 + 0.1, return_dict=False)[0]
    levels = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round()
    assert (ours.codec.decode(found).float() - levels).abs().max() <= 1


def test_its_times_are_those_of_a_shifted_grid():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25])
    times = [float(1 - sigma) for sigma in scheduler.sigmas]
    assert Shifted(3.0)(4) == pytest.approx(times, abs=1e-6)


@pytest.mark.slow
def test_the_velocity_is_trainable_and_travels_in_checkpoints(tmp_path):
    for folder in (sd3_pipeline(), z_image_pipeline()):
        network = as_velocity(str(folder)).train().requires_grad_(True)
        network.checkpointable()[0]._recomputed = True
        network(noise(), torch.tensor([0.2, 0.9])).square().mean().backward()
        first = next(iter(network.model.parameters()))
        assert first.grad is not None and network.model.is_gradient_checkpointing
        generator = load(str(folder), solver=Euler(2))
        file = tmp_path / f"{folder.name}.safetensors"
        generator.save(file)
        again = load(str(file))
        assert torch.equal(
            again.sample(2, seed=1, prompts=PROMPTS), generator.sample(2, seed=1, prompts=PROMPTS)
        )


def test_a_transformer_alone_is_read_without_texts(caplog):
    network = pretrained(str(sd3_pipeline() / "transformer"))
    assert network.null_text.shape == (335, 24) and not network.null_text.any()
    assert "zeros until training sets it" in caplog.text
    same = pretrained(str(sd3_pipeline()))
    text = torch.randn(2, 335, 24)
    t = torch.tensor([0.1, 0.8])
    assert torch.equal(network(noise(), t, {"text": text}), same(noise(), t, {"text": text}))


FAULTS = {
    "another family": (
        sd3_pipeline,
        lambda f: change(f / "model_index.json", transformer=["diffusers", "FluxTransformer2DModel"]),
        "pipeline with FluxTransformer2DModel; expected one with a UNet2DConditionModel",
    ),
    "another vae": (
        sd3_pipeline,
        lambda f: change(f / "vae/config.json", latent_channels=16),
        "latents of its vae have 16 channels, but its transformer takes 4",
    ),
    "no second encoder": (
        sd3_pipeline,
        lambda f: shutil.rmtree(f / "text_encoder_2"),
        "text_encoder_2: there is no such folder",
    ),
    "narrow texts": (
        lambda: sd3_pipeline(False),
        lambda f: change(f / "transformer/config.json", joint_attention_dim=12),
        "CLIPs of 20 numbers a token together, more than the 12",
    ),
    "another encoder": (
        z_image_pipeline,
        lambda f: change(f / "model_index.json", text_encoder=["transformers", "LlamaModel"]),
        "has LlamaModel as text_encoder; expected a Qwen3Model",
    ),
    "an unknown encoder": (
        z_image_pipeline,
        lambda f: change(f / "model_index.json", text_encoder=["transformers", "Qwen3NextGenModel"]),
        "is a Qwen3NextGenModel, which transformers .* lacks; pip install -U transformers",
    ),
    "no message": (
        z_image_pipeline,
        lambda f: (f / "tokenizer/chat_template.jinja").unlink(),
        "has no chat_template",
    ),
    "another input": (
        z_image_pipeline,
        lambda f: change(f / "transformer/config.json", siglip_feat_dim=8),
        "siglip_feat_dim: 8, an input beside text",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_that_does_not_fit_is_refused_in_one_line(copied, fault):
    pipeline, spoil, expected = FAULTS[fault]
    folder = copied(pipeline())
    spoil(folder)
    with pytest.raises(FlowlitError, match=expected) as error:
        pretrained(str(folder))
    assert "\n" not in str(error.value)
