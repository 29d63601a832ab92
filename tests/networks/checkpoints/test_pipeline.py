"""Networks from folders of diffusers' pipelines, and folders that are none."""

from __future__ import annotations

import shutil

import pytest
import torch
from pipelines import change, pipeline, texts
from safetensors.torch import load_file, save_file

from flowlit.errors import FlowlitError
from flowlit.networks import as_velocity, pretrained

diffusers = pytest.importorskip("diffusers", reason="flowlit[text] is not installed")
pytest.importorskip("transformers", reason="flowlit[text] is not installed")
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path):
    """A copy, to be changed."""
    return shutil.copytree(pipeline(), tmp_path / "pipe")


def inputs():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 4, 8, 8, generator=generator), torch.tensor([0.2, 0.7])


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "flow"])
def test_a_pipeline_gives_the_velocity_that_its_scheduler_means(prediction):
    network = pretrained(str(pipeline(prediction)))
    stock = diffusers.UNet2DConditionModel.from_pretrained(pipeline(prediction) / "unet").eval()
    x, t = inputs()
    text = texts(2)
    velocity = network(x, t, {"text": text})
    if prediction == "flow":
        expected = -stock(x, 1000 * (1 - t), encoder_hidden_states=text).sample
        assert torch.equal(velocity, expected)
        return
    scheduler = diffusers.DDIMScheduler.from_pretrained(pipeline(prediction) / "scheduler")
    ratio = (1 - t) / t
    levels = ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).sqrt().log()
    upper = torch.searchsorted(levels, ratio.log())
    place = upper - 1 + (ratio.log() - levels[upper - 1]) / (levels[upper] - levels[upper - 1])
    alpha = (1 + ratio**2).rsqrt()[:, None, None, None]
    sigma = alpha * ratio[:, None, None, None]
    noisy = alpha * x / t[:, None, None, None]
    output = stock(noisy, place, encoder_hidden_states=text).sample
    if prediction == "epsilon":
        data, noise = (noisy - sigma * output) / alpha, output
    else:
        data, noise = alpha * noisy - sigma * output, sigma * noisy + alpha * output
    torch.testing.assert_close(velocity, data - noise, atol=2e-3, rtol=2e-3)


def test_empty_text_codec_and_encoder_come_with_it():
    network = pretrained(str(pipeline("flow")))
    stock = diffusers.DiffusionPipeline.from_pretrained(pipeline("flow"))
    expected = stock.encode_prompt([""], "cpu", 1, False)[0][0]
    torch.testing.assert_close(network.null_text, expected)
    assert network.codec["init_args"]["folder"] == str(pipeline("flow") / "vae")
    assert network.text_encoder["class_path"] == "flowlit.data.CLIPText"
    assert network.loaded["file"] == str(pipeline("flow") / WEIGHTS)


def test_the_unet_of_a_diffusion_begins_a_velocity():
    network = as_velocity(str(pipeline()))
    stock = diffusers.UNet2DConditionModel.from_pretrained(pipeline() / "unet").eval()
    x, t = inputs()
    expected = stock(x, 1000 * (1 - t), encoder_hidden_states=texts(2)).sample
    assert torch.equal(network(x, t, {"text": texts(2)}), expected)
    alone = as_velocity(str(pipeline() / "unet"))
    assert torch.equal(alone(x, t, {"text": texts(2)}), expected)


def test_that_of_a_flow_is_a_velocity_with_its_sign():
    x, t = inputs()
    networks = [read(str(pipeline("flow"))) for read in (as_velocity, pretrained)]
    one, two = (network(x, t, {"text": texts(2)}) for network in networks)
    assert torch.equal(one, two)


def test_weights_in_half_precision_are_computed_with_in_float32(folder, caplog):
    state = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    half = {name: value.half() for name, value in state.items()}
    save_file(half, folder / "unet/diffusion_pytorch_model.fp16.safetensors")
    network = pretrained(str(folder))
    assert "half precision only; they are computed with in float32" in caplog.text
    weight = network.network.model.conv_in.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, half["conv_in.weight"].float())


def test_weights_in_several_files_are_read(folder):
    state = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    parts = {f"part-{k}.safetensors": dict(list(state.items())[k::2]) for k in range(2)}
    for name, part in parts.items():
        save_file(part, folder / "unet" / name)
    index = folder / "unet/diffusion_pytorch_model.safetensors.index.json"
    index.write_text("{}")
    change(index, weight_map={name: file for file, part in parts.items() for name in part})
    network = pretrained(str(folder))
    assert all(torch.equal(network.network.model.state_dict()[name], state[name]) for name in state)
    (folder / "unet" / "part-1.safetensors").unlink()
    with pytest.raises(FlowlitError, match=r"lists \['part-1.safetensors'\] that are not there"):
        pretrained(str(folder))


def test_a_safety_checker_is_left_out_in_one_line(folder, caplog):
    change(folder / "model_index.json", safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])
    pretrained(str(folder))
    assert "its safety_checker is not used" in caplog.text


def _pickled(folder):
    (folder / WEIGHTS).rename(folder / "unet/diffusion_pytorch_model.bin")


def _index(folder, content):
    (folder / "model_index.json").write_text(content)


FAULTS = {
    "no unet": (lambda f: shutil.rmtree(f / "unet"), "unet/config.json does not exist"),
    "no scheduler": (lambda f: shutil.rmtree(f / "scheduler"), "scheduler_config.json does not exist"),
    "torn table": (lambda f: _index(f, "{"), "model_index.json cannot be read"),
    "table is a list": (lambda f: _index(f, "[]"), "holds a list; expected a table"),
    "pickled": (_pickled, "found diffusion_pytorch_model.bin, whose pickle may run code"),
    "another family": (
        lambda f: change(f / "model_index.json", unet=None, transformer=["diffusers", "FluxModel"]),
        "pipeline with FluxModel; expected one with a UNet2DConditionModel",
    ),
    "another vae": (
        lambda f: change(f / "vae/config.json", latent_channels=16),
        "latents of its vae have 16 channels, but its unet takes 4",
    ),
    "another config": (
        lambda f: change(f / "unet/config.json", block_out_channels=[16, 48]),
        "is of another architecture",
    ),
    "given noise levels": (
        lambda f: change(f / "scheduler/scheduler_config.json", trained_betas=[0.1]),
        "its scheduler has trained_betas, which flowlit does not have",
    ),
    "pure noise": (
        lambda f: change(f / "scheduler/scheduler_config.json", rescale_betas_zero_snr=True),
        "rescale_betas_zero_snr: true",
    ),
    "no noise levels": (  # as of EDM's and consistency models' schedulers
        lambda f: change(f / "scheduler/scheduler_config.json", beta_start=None, sigma_min=0.002),
        "its scheduler has no beta_start and beta_end, which flowlit does not have",
    ),
    "another prediction": (
        lambda f: change(f / "scheduler/scheduler_config.json", prediction_type="other"),
        "prediction_type: other",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_that_does_not_fit_is_refused_in_one_line(folder, fault):
    spoil, expected = FAULTS[fault]
    spoil(folder)
    with pytest.raises(FlowlitError, match=expected) as error:
        pretrained(str(folder))
    assert "\n" not in str(error.value)


def test_what_is_no_pipeline_is_refused(tmp_path):
    with pytest.raises(FlowlitError, match=r"is a folder; it holds no weights; expected .*model_index.json"):
        pretrained(str(tmp_path))
    with pytest.raises(FlowlitError, match="give the folder of its pipeline"):
        pretrained(str(pipeline() / WEIGHTS))
    with pytest.raises(FlowlitError, match=r"no scheduler says what it predicts.*as_velocity"):
        pretrained(str(pipeline() / "unet"))
    with pytest.raises(FlowlitError, match=r"model_index.json|config.json does not exist"):
        as_velocity(str(tmp_path))
