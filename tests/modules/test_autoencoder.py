"""An autoencoder of diffusers that a stage has trained: its folder, its scale, and what is refused."""

import json
from pathlib import Path

import pytest
import tiny
import torch
from commandline import in_process

from flowlit import rng
from flowlit.data import VAE, DecodedDistance, Digits
from flowlit.errors import FlowlitError
from flowlit.networks import DiffusersAutoencoder
from flowlit.objectives.distances import SquaredError

diffusers = pytest.importorskip("diffusers", reason="flowlit[text] is not installed")

CONFIG = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": [8, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "mid_block_add_attention": False,
}
NETWORK = {"class_path": "flowlit.networks.DiffusersAutoencoder", "init_args": {"config": CONFIG}}


def stage(root, steps=2, coupling=None, network=NETWORK):
    content = tiny.fit(
        root, "AutoencoderModule", network, coupling or tiny.digits(limit=24), [tiny.checkpoints(2)], steps
    )
    del content["model"]["init_args"]["solvers"], content["data"]["init_args"]["noise"]
    content["model"]["init_args"]["into"] = str(root / "vae")
    return content


def fit(root, *words, **arguments):
    return in_process("fit", "-c", tiny.write(root / "run.yaml", stage(root, **arguments)), *words)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("autoencoder")
    outcome = fit(root)
    assert outcome.code == 0, outcome.err
    return root / "vae"


def digits(count):
    data = Digits(limit=count)
    return torch.stack([data[row]["x1"] for row in range(count)])


def test_latents_of_the_training_images_have_size_one(folder):
    x1 = VAE(str(folder)).encode(digits(24))
    assert x1.shape == (24, 4, 4, 4)
    assert float(x1.square().mean()) == pytest.approx(1, abs=1e-4)
    assert json.loads((folder / "config.json").read_text())["scaling_factor"] != 0.18215


def test_stock_diffusers_makes_the_same_images(folder):
    codec = VAE(str(folder))
    model = diffusers.AutoencoderKL.from_pretrained(folder).eval()
    x = digits(4).float() / 127.5 - 1
    with torch.no_grad():
        again = model(x).sample
    torch.testing.assert_close(codec.decoded(codec.encode(digits(4))), again, atol=1e-4, rtol=1e-4)


def test_a_fit_that_goes_on_writes_the_folder_again(tmp_path):
    assert fit(tmp_path).code == 0
    before = (tmp_path / "vae/diffusion_pytorch_model.safetensors").read_bytes()
    assert fit(tmp_path, "--resume", "auto", steps=4).code == 0
    assert (tmp_path / "vae/diffusion_pytorch_model.safetensors").read_bytes() != before
    assert not list(tmp_path.glob(".vae*"))


def test_the_folder_before_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    assert fit(tmp_path).code == 0
    before = (tmp_path / "vae/diffusion_pytorch_model.safetensors").read_bytes()

    def torn(model, folder, **options):
        (Path(folder) / "config.json").write_text("{")
        raise OSError("disk full")

    monkeypatch.setattr(diffusers.AutoencoderKL, "save_pretrained", torn)
    outcome = fit(tmp_path, "--resume", "auto", steps=4)
    assert outcome.code != 0 and "vae cannot be written (disk full)" in outcome.err
    assert (tmp_path / "vae/diffusion_pytorch_model.safetensors").read_bytes() == before
    assert json.loads((tmp_path / "vae/config.json").read_text()) and not list(tmp_path.glob(".vae*"))


def test_a_folder_of_something_else_stays(tmp_path):
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae/mine.txt").write_text("mine")
    outcome = fit(tmp_path)
    assert outcome.code == 1 and "no autoencoder's folder; remove it" in outcome.err
    assert (tmp_path / "vae/mine.txt").read_text() == "mine"


def test_other_images_and_latents_are_refused(tmp_path):
    network = {**NETWORK, "init_args": {"config": {**CONFIG, "sample_size": 16}}}
    outcome = fit(tmp_path / "a", network=network)
    assert outcome.code == 1 and "shape (1, 8, 8), the network's image_shape is (1, 16, 16)" in outcome.err
    coupling = tiny.digits(limit=24)
    coupling["init_args"]["codec"] = {"class_path": "flowlit.data.Patches"}
    outcome = fit(tmp_path / "b", coupling=coupling)
    assert outcome.code == 1 and "AutoencoderModule trains on images" in outcome.err


def test_divergence_is_that_of_diffusers_and_draws_are_ours():
    torch.manual_seed(0)
    network = DiffusersAutoencoder(CONFIG).eval()
    x = digits(3).float() / 127.5 - 1
    with torch.no_grad():
        normal = network.model.encode(x).latent_dist
        image, divergence = network(x)
        torch.testing.assert_close(divergence, normal.kl() / normal.mean[0].numel())
        torch.testing.assert_close(image, network.model.decode(normal.mode()).sample)
        rng.seed(torch.device("cpu"), 5)
        drawn = network(x, draw=True)[0]
        rng.seed(torch.device("cpu"), 5)
        assert torch.equal(network(x, draw=True)[0], drawn)
    assert not torch.equal(drawn, image)


@pytest.mark.parametrize("changes", [{"out_channels": 3}, {"sample_size": [8, 16]}])
def test_autoencoders_with_other_outputs_are_refused(changes):
    with pytest.raises(FlowlitError, match="expected equal numbers, and one whole number of pixels a side"):
        DiffusersAutoencoder({**CONFIG, **changes})


def test_a_distance_of_decoded_images_has_gradients_of_the_first_alone(folder):
    codec = VAE(str(folder))
    distance = DecodedDistance(codec, SquaredError())
    a, b = (torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    a.requires_grad_()
    b.requires_grad_()
    value = distance(a, b)
    expected = (codec.decoded(a) - codec.decoded(b)).square().flatten(1).mean(1)
    torch.testing.assert_close(value, expected)
    value.sum().backward()
    assert a.grad.abs().sum() > 0 and b.grad is None
    assert torch.equal(distance(b, b), torch.zeros(3))
