"""Latents of an autoencoder as x1: diffusers' own numbers, the same in any batch."""

from __future__ import annotations

import copy
import math
import pickle
import shutil

import pytest
import torch
from pipelines import change, pipeline

from flowlit.couplings.store.encoding import codec_facts, stored_codec
from flowlit.data import VAE
from flowlit.errors import FlowlitError

diffusers = pytest.importorskip("diffusers", reason="flowlit[text] is not installed")


@pytest.fixture(scope="module")
def stock():
    return diffusers.AutoencoderKL.from_pretrained(pipeline() / "vae").eval()


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (6, 3, 16, 16), generator=generator, dtype=torch.uint8)


def test_latents_and_images_are_those_of_diffusers(stock, images):
    codec = VAE(str(pipeline()))
    x1 = codec.encode(images)
    with torch.no_grad():
        expected = 0.7 * stock.encode(images / 127.5 - 1).latent_dist.mode()
        decoded = stock.decode(expected / 0.7).sample
    assert x1.dtype == torch.float32
    torch.testing.assert_close(x1, expected, atol=1e-5, rtol=1e-4)
    levels = (decoded * 127.5 + 127.5).round().clamp(0, 255)
    assert (codec.decode(x1).float() - levels).abs().max() <= 1
    torch.testing.assert_close(codec.decoded(x1), decoded, atol=1e-4, rtol=1e-3)
    assert codec.encoded_shape((3, 16, 16)) == (4, 8, 8) == tuple(x1.shape[1:])
    assert codec.decoded_shape((4, 8, 8)) == (3, 16, 16)


@pytest.mark.parametrize("seed", [None, 3])
def test_an_image_is_the_same_in_any_batch(images, seed):
    codec = VAE(str(pipeline() / "vae"), seed=seed)
    x1 = codec.encode(images)
    assert all(torch.equal(codec.encode(images[k : k + 1])[0], x1[k]) for k in range(6))
    whole = codec.decode(x1)
    assert torch.equal(torch.cat([codec.decode(part) for part in x1.split([1, 5])]), whole)


def test_drawn_latents_have_the_encoders_spread(stock, images):
    drawn = [VAE(str(pipeline()), seed=seed).encode(images) for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    with torch.no_grad():
        normal = stock.encode(images / 127.5 - 1).latent_dist
    scores = (drawn[0] / 0.7 - normal.mean) / normal.std
    assert abs(float(scores.mean())) < 0.15  # of 1,536 numbers, whose standard error is 0.026
    assert abs(float(scores.std()) - 1) < 0.12


def test_a_latent_is_no_pixel():
    """Stores would round it to 256 levels of [-1, 1]."""
    assert VAE(str(pipeline())).pixels is False


def test_gradients_reach_the_latents_and_not_the_weights(images):
    codec = VAE(str(pipeline()))
    x1 = codec.encode(images[:1]).requires_grad_()
    codec.decoded(x1).square().mean().backward()
    assert x1.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in codec.autoencoder.model.parameters())


def test_bf16_and_tiles_are_near(images):
    codec = VAE(str(pipeline()))
    x1 = codec.encode(images)
    half = VAE(str(pipeline()), precision="bf16")
    assert half.encode(images).dtype == torch.float32
    assert 0 < float((half.decode(x1).float() - codec.decode(x1).float()).abs().mean()) < 2
    tiled = VAE(str(pipeline()), tiling=True)
    assert tiled.autoencoder.model.use_tiling
    assert torch.equal(tiled.decode(x1), codec.decode(x1))  # smaller than a tile


def test_the_tiny_autoencoder_is_one_too(tmp_path, images):
    torch.manual_seed(0)
    widths = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    blocks = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
    model = diffusers.AutoencoderTiny(**widths, **blocks).eval()
    model.save_pretrained(tmp_path)
    codec = VAE(str(tmp_path))
    with torch.no_grad():
        expected = model.encode(images / 127.5 - 1).latents
    torch.testing.assert_close(codec.encode(images), expected, atol=1e-5, rtol=1e-4)
    assert codec.decode(codec.encode(images)).shape == images.shape
    assert codec.encoded_shape((3, 16, 16)) == tuple(expected.shape[1:])


def test_a_manifest_names_it_with_the_hash_of_its_weights():
    facts = codec_facts(VAE(str(pipeline())))
    assert stored_codec({"codec": facts}).spec == {key: facts[key] for key in ("class_path", "init_args")}
    assert facts["fingerprint"] != codec_facts(VAE(str(pipeline(seed=1))))["fingerprint"]


def test_copies_and_pickles_read_the_weights_again(images):
    codec = VAE(str(pipeline()))
    x1 = codec.encode(images)
    for other in (copy.deepcopy(codec), pickle.loads(pickle.dumps(codec))):
        assert torch.equal(other.encode(images), x1)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (
            lambda c: c.encode(torch.zeros(1, 1, 16, 16).byte()),
            r"\(1, 16, 16\); expected 3 channels",
        ),
        (lambda c: c.encode(torch.zeros(1, 3, 15, 16).byte()), "divisible by 2"),
        (lambda c: c.decode(torch.zeros(1, 3, 8, 8)), "its latents have 4 channels"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(call, expected):
    with pytest.raises(FlowlitError, match=expected):
        call(VAE(str(pipeline())))


def test_folders_that_hold_none_are_refused(tmp_path):
    with pytest.raises(FlowlitError, match=r"config.json does not exist; expected the folder of a diffusers"):
        VAE(str(tmp_path)).encoded_shape((3, 16, 16))
    with pytest.raises(FlowlitError, match="holds a UNet2DConditionModel; expected AutoencoderKL"):
        VAE(str(pipeline() / "unet")).autoencoder.config  # noqa: B018
    place = shutil.copytree(pipeline() / "vae", tmp_path / "vae")
    change(place / "config.json", block_out_channels=[16, 16])
    with pytest.raises(FlowlitError, match=r"VAE .*(cannot be read as Autoencoder|are missing)"):
        VAE(str(place)).autoencoder.model  # noqa: B018
    (place / "diffusion_pytorch_model.safetensors").rename(place / "diffusion_pytorch_model.bin")
    with pytest.raises(FlowlitError, match="whose pickle may run code"):
        VAE(str(place)).autoencoder.model  # noqa: B018


@pytest.mark.parametrize(
    ("name", "factor"),
    [("scaling_factor", 0), ("scaling_factor", "0.18"), ("scaling_factor", math.nan), ("shift_factor", [0])],
)
def test_latents_without_a_size_are_refused_before_any_weights_are_read(tmp_path, name, factor):
    place = shutil.copytree(pipeline() / "vae", tmp_path / "vae")
    change(place / "config.json", **{name: factor})
    with pytest.raises(FlowlitError, match=rf"vae.config.json has {name}: .*; expected a number"):
        VAE(str(place)).encoded_shape((3, 16, 16))
