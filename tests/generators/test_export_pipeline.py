"""Generators as pipelines of diffusers: the same pixels, and changes that are added to other weights."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from pipelines import pipeline
from safetensors.torch import load_file
from texts import Hashed

import flowlit
from flowlit.commands.export import export as command
from flowlit.data import VAE, Patches
from flowlit.errors import FlowlitError
from flowlit.generators import Generator
from flowlit.generators.export import export
from flowlit.generators.export import write as writing
from flowlit.generators.merging import merged
from flowlit.networks import ClassifierFreeGuidance, as_velocity, pretrained
from flowlit.solvers import Euler, Heun

diffusers = pytest.importorskip("diffusers", reason="flowlit[text] is not installed")
PROMPTS = ["a red cat", "", "ein Hund 犬 🐕"]
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """A velocity that began with the U-Net of a diffusion, and was trained by noise."""
    network = as_velocity(str(pipeline()))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.model.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    path = tmp_path_factory.mktemp("student") / "student.safetensors"
    Generator(network, Euler(1), VAE(str(pipeline()))).save(path)
    return path


@pytest.fixture(scope="module")
def folder(student, tmp_path_factory):
    return export(flowlit.load(student), "diffusers", tmp_path_factory.mktemp("out") / "pipe", num=4).into


@pytest.mark.parametrize("steps", [1, 3])
def test_stock_diffusers_makes_the_pixels_of_the_checkpoint(student, folder, steps):
    generator = flowlit.load(student, solver=Euler(steps))
    ours = generator.sample(seeds=[1, 2, 3], prompts=PROMPTS).permute(0, 2, 3, 1).numpy()
    stock = diffusers.DiffusionPipeline.from_pretrained(folder)
    stock.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": steps, "guidance_scale": 1.0}
    images = stock(PROMPTS, latents=generator.noise([1, 2, 3]), **options).images
    theirs = np.stack([np.asarray(image) for image in images])
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    assert (ours != theirs).mean() < 1e-3


def test_the_folder_is_read_back_with_its_solver(student, folder):
    again = flowlit.load(folder)
    assert again.solver == Euler(1)
    assert again.network.predicts == "flow"
    one, two = (generator.sample(seeds=[5], prompts="a dog") for generator in (flowlit.load(student), again))
    assert torch.equal(one, two)
    report = json.loads(folder.with_name("pipe.json").read_text())
    assert report["form"] == "diffusers" and report["parity"]["levels"]["max"] <= 1
    assert sorted(path.name for path in folder.iterdir()) == [
        *("flowlit.json", "model_index.json", "scheduler", "text_encoder", "tokenizer", "unet", "vae")
    ]
    assert not [path for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]


@pytest.mark.slow
def test_the_folder_runs_where_flowlit_is_not(folder):
    code = (
        "import sys; sys.modules['flowlit'] = None\n"
        "from diffusers import DiffusionPipeline\n"
        f"pipeline = DiffusionPipeline.from_pretrained({str(folder)!r})\n"
        "print(pipeline('a cat', num_inference_steps=2, guidance_scale=1.0).images[0].size)"
    )
    run = subprocess.run([sys.executable, "-I", "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == "(16, 16)"


def _hashed(generator):
    generator.network.text_encoder = {**Hashed().spec, "fingerprint": Hashed().fingerprint}
    return generator


REFUSED = {
    "encoder": (_hashed, "the text encoder is a Hashed; expected flowlit.data.CLIPText"),
    "solver": (lambda g: replace(g, solver=Heun(2)), "expected Euler in equal steps"),
    "codec": (lambda g: replace(g, codec=Patches()), "expected flowlit.data.VAE"),
    "guidance": (
        lambda g: replace(g, network=ClassifierFreeGuidance(g.network, 2.0)),
        "guidance is an argument of pipelines",
    ),
    "diffusion": (
        lambda g: replace(g, network=pretrained(str(pipeline())).network),
        "the network predicts for a diffusion",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_no_stock_pipeline_is_gets_refused(student, tmp_path, what):
    change, expected = REFUSED[what]
    with pytest.raises(FlowlitError, match=expected):
        export(change(flowlit.load(student)), "diffusers", tmp_path / "pipe")
    assert not (tmp_path / "pipe").exists()


def test_a_folder_that_makes_other_images_is_not_kept(student, tmp_path, monkeypatch):
    other = writing.original(flowlit.load(pipeline("flow"), solver=Euler(1)))
    monkeypatch.setitem(writing.RUNNERS, "diffusers", lambda file: other)
    with pytest.raises(FlowlitError, match=r"makes other images: x1 differs by up to .*not kept"):
        export(flowlit.load(student), "diffusers", tmp_path / "pipe", num=2)
    assert not (tmp_path / "pipe").exists()


def test_what_training_changed_is_added_to_fine_tuned_weights(student, tmp_path):
    generator = flowlit.load(student)
    result = merged(generator, str(pipeline()), str(pipeline(seed=1)))
    weights = [load_file(pipeline(seed=seed) / WEIGHTS) for seed in (0, 1)]
    for name, trained in generator.network.model.state_dict().items():
        expected = weights[1][name] + (trained - weights[0][name])
        assert torch.equal(result.network.model.state_dict()[name], expected)
    assert result.codec.folder == str(pipeline(seed=1) / "vae")
    assert result.network.text_encoder["init_args"]["folder"] == str(pipeline(seed=1))


def state_of(*arguments):
    return merged(*arguments).network.model.state_dict()


def test_the_sign_of_a_flow_is_turned_back_first(student, folder):
    base, other = str(pipeline()), str(pipeline(seed=1))
    exported = state_of(flowlit.load(folder), base, other)
    assert exported.keys() == load_file(pipeline() / WEIGHTS).keys()
    for name, value in state_of(flowlit.load(student), base, other).items():
        assert torch.equal(exported[name], value), "an exported folder is the checkpoint"
    goal = as_velocity(other).model.state_dict()
    for name, value in state_of(flowlit.load(folder), str(folder), other).items():
        assert torch.equal(value, goal[name]), "nothing was trained from itself"
    onto = merged(flowlit.load(student), base, str(folder)).network
    begin = as_velocity(base).model.state_dict()["conv_out.weight"]
    trained = flowlit.load(student).network.model.state_dict()["conv_out.weight"]
    assert onto.predicts == "flow"
    torch.testing.assert_close(onto.model.state_dict()["conv_out.weight"], begin - 2 * trained)


def test_a_codec_in_half_precision_is_written_as_it_was_trained(student, tmp_path):
    generator = replace(flowlit.load(student), codec=VAE(str(pipeline()), precision="bf16"))
    into = export(generator, "diffusers", tmp_path / "pipe", num=2).into
    name = "vae/diffusion_pytorch_model.safetensors"
    before, after = (load_file(place / name) for place in (pipeline(), into))
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert generator.sample(1, prompts="a").shape == (1, 3, 16, 16), "it still computes in bf16"


def test_the_command_takes_both_folders_or_neither(student, tmp_path):
    arguments = {"checkpoint": str(student), "into": tmp_path / "pipe", "base": "x"}
    for given in ({"to": "diffusers"}, {"to": "onnx", "onto": "y"}):
        with pytest.raises(FlowlitError, match="--base and --onto are for --to diffusers"):
            list(command(**arguments, **given))
