"""Latents of a frozen encoder: statistics, independence of a batch, and parts that do not fit."""

import re

import pytest
import torch
from autoencoders import autoencoder, images
from tools import write_checkpoint
from torch import nn

from flowlit.data.codecs import from_levels
from flowlit.errors import FlowlitError
from flowlit.networks import (
    ConvDecoder,
    ConvResidual,
    StoredAutoencoder,
    TimmEncoder,
    UNet,
)
from flowlit.networks.checkpoints.spec import build, spec


def test_measured_codes_have_mean_0_and_variance_1():
    network = autoencoder().eval()
    x = from_levels(images(200))
    network.measure(x.split(64))
    z = network.encode(x).detach()
    codes, detail = z[:, :8].double(), z[:, 8:].double()
    assert int(network.measured) == 200
    assert codes.mean(0).abs().max() < 1e-3
    varies = network.std > 1.001 * network.std.min()  # others are divided by the least deviation
    assert varies.float().mean() > 0.5
    assert (codes.var(0, correction=0) - 1).abs()[varies].max() < 0.01
    assert detail.mean((1, 2, 3)).abs().max() < 1e-4  # of each image
    assert (detail.square().mean((1, 2, 3)) - 1).abs().max() < 0.01


def test_statistics_do_not_depend_on_the_batches_they_are_taken_in():
    first, second = autoencoder(), autoencoder()
    second.load_state_dict(first.state_dict())
    x = from_levels(images(30))
    first.measure(x.split(30))
    second.measure(x.split(7))
    assert torch.allclose(first.mean, second.mean, atol=1e-6)
    assert torch.allclose(first.std, second.std, atol=1e-6)


def test_a_code_that_never_varies_stays_small():
    """As a dead channel of an encoder: on other images it may be far from its mean."""
    network = autoencoder()
    network.measure([from_levels(images(1)).expand(5, -1, -1, -1)])
    assert bool((network.std == 1).all())
    x = from_levels(images(40))
    network.measure(x.split(20))
    assert network.std.min() >= 0.02 * network.std.mean()


def test_a_latent_does_not_depend_on_others_in_its_batch():
    network = autoencoder().eval()
    x = from_levels(images(6))
    network.measure([x])
    together = network.encode(x)
    alone = torch.cat([network.encode(row) for row in x.split(1)])
    assert torch.allclose(together, alone, atol=1e-4)
    assert torch.equal(network.encode(x), together)


def test_the_encoder_is_frozen_and_in_eval_mode_always():
    network = autoencoder(masked=0.0).train()
    assert not network.encoder.training and network.decoder.training
    before = {name: value.clone() for name, value in network.encoder.state_dict().items()}
    network(from_levels(images(4))).sum().backward()
    assert all(parameter.grad is None for parameter in network.encoder.parameters())
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert any(name.startswith("residual.") for name in trained)
    assert all(torch.equal(value, before[name]) for name, value in network.encoder.state_dict().items())


def test_a_masked_branch_is_a_learned_constant_and_only_in_training():
    network = autoencoder(masked=0.5)
    x = from_levels(images(64))
    torch.manual_seed(0)
    hidden = (network.train().encode(x)[:, 8:] == network.constant).all(dim=3).all(dim=2).all(dim=1)
    assert 16 < int(hidden.sum()) < 48
    assert not (network.eval().encode(x)[:, 8:] == network.constant).all(dim=1).any()


def test_without_a_branch_latents_are_the_codes_alone():
    """RAE's form."""
    network = autoencoder(residual=None, decoder=ConvDecoder(8, 1, 2, 8)).train()
    x = from_levels(images(40))
    network.measure([x])
    z = network.encode(x)
    assert z.shape == (40, 8, 2, 2) and not z.requires_grad
    torch.testing.assert_close(z, (network.code(x) - network.mean) / network.std)
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert trained and all(name.startswith("decoder.") for name in trained)
    again = build(spec(network), nn.Module)
    again.load_state_dict(network.state_dict())
    assert again.residual is None and torch.equal(again.eval()(x), network.eval()(x))


def test_it_is_built_again_from_its_description():
    network = autoencoder()
    again = build(spec(network), nn.Module)
    again.load_state_dict(network.state_dict())
    x = from_levels(images(3))
    assert torch.equal(again.eval()(x), network.eval()(x))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"decoder": ConvDecoder(8, 1, 2, 8)},
            r"does not take latents of shape \(10, 2, 2\).*in_channels: 10",
        ),
        ({"decoder": ConvDecoder(10, 1, 1, 8)}, r"images of shape \(1, 4, 4\).*expected \(1, 8, 8\)"),
        ({"decoder": ConvDecoder(10, 3, 2, 8)}, r"images of shape \(3, 8, 8\).*out_channels"),
        ({"residual": ConvResidual(1, 2, 1, 8)}, r"the branch has 4×4 positions.*'top' 2×2.*halvings"),
        ({"layer": ""}, r"layer '' of SmallClassifier returned \(1, 10\), expected a map"),
        ({"layer": "trunk"}, r"layers \['trunk'\] not in SmallClassifier"),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts, message):
    with pytest.raises(FlowlitError, match=message):
        autoencoder(**parts)


def test_images_of_another_shape_are_refused():
    with pytest.raises(FlowlitError, match=re.escape("shape (3, 16, 16), expected (1, 8, 8)")):
        autoencoder().encode(torch.zeros(1, 3, 16, 16))


def test_another_network_is_no_codec(tmp_path):
    path = write_checkpoint(tmp_path / "unet.ckpt", UNet(8, 1, 8, [1], 1, []))
    with pytest.raises(FlowlitError, match="holds UNet, expected a LatentAutoencoder"):
        StoredAutoencoder(path)


def test_levels_of_timm_are_those_of_the_whole_network(tmp_path):
    timm = pytest.importorskip("timm")
    whole = timm.create_model("tf_efficientnet_lite0").eval()
    path = tmp_path / "weights.pth"
    torch.save(whole.state_dict(), path)
    encoder = TimmEncoder(level=1, size=32, weights=str(path)).eval()
    x = torch.rand(2, 1, 32, 32) * 2 - 1
    expected = whole.forward_intermediates(x.expand(-1, 3, -1, -1), intermediates_only=True)[1]
    assert torch.allclose(encoder(x), expected, atol=1e-5)
    assert encoder(x).shape == (2, 24, 8, 8)
    assert sum(value.numel() for value in encoder.parameters()) < 20_000  # later levels are left away
    again = build(encoder.spec, nn.Module)
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again.eval()(x), encoder(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "nothing_of_timms", "weights": "stored"}, "has no level 1 in timm"),
        ({"name": "tf_efficientnet_lite0", "level": 99, "weights": "stored"}, "has no level 99"),
        ({"name": "resnet18"}, "no weights of resnet18 at 'package'; expected a file"),
        ({"weights": "missing.pth"}, "no weights of tf_efficientnet_lite0 at 'missing.pth'"),
    ],
)
def test_encoders_that_are_not_there_are_refused(arguments, message):
    pytest.importorskip("timm")
    with pytest.raises(FlowlitError, match=message):
        TimmEncoder(**arguments)


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_damaged_file_of_an_encoder_is_one_error(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"no weights")
    with pytest.raises(FlowlitError, match=name):
        TimmEncoder(weights=str(path))
