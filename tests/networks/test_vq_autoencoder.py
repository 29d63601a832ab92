"""The autoencoder of latent diffusion with a codebook: read from its files, compared with a literal copy."""

import pytest
import torch
from reference import vq
from safetensors.torch import save_file

from flowlit.data import VQ
from flowlit.errors import FlowlitError
from flowlit.networks import StoredVQ, UNet, VQAutoencoder
from flowlit.networks.checkpoints.spec import build, spec
from flowlit.types import Codec

SIZES = {"two levels": {}, "three levels": {"mult": (1, 1, 2), "blocks": 2, "latents": 4, "codes": 5}}


def images(count=2, side=16):
    draw = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (count, 3, side, side), generator=draw, dtype=torch.uint8)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("vq") / "autoencoder_vq_f4.pth"
    torch.save(vq.state(), path)
    return str(path)


@pytest.fixture(scope="module")
def codec(file):
    return VQ(StoredVQ(file))


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@torch.no_grad()
def test_it_computes_what_their_code_does(sizes, tmp_path):
    state = vq.state(seed=2, **sizes)
    torch.save({"state_dict": {**state, "loss.discriminator.weight": torch.zeros(3)}}, tmp_path / "c.pth")
    network = StoredVQ(str(tmp_path / "c.pth"))
    x = images() / 127.5 - 1
    z = network(x, "encode")
    expected = vq.encode(state, x)
    assert expected.std() > 0.1
    torch.testing.assert_close(z, expected, rtol=1e-4, atol=1e-4)
    back = vq.decode(state, expected)
    torch.testing.assert_close(
        network(expected, "decode"), back, rtol=1e-4, atol=1e-4 * float(back.abs().max())
    )
    assert network.factor == 2 ** (len(sizes.get("mult", (1, 2))) - 1)
    assert not any(value.requires_grad for value in network.parameters())


def test_vq_f4_has_the_names_and_shapes_of_its_file():
    with torch.device("meta"):
        found = VQAutoencoder().state_dict()
    shapes = vq.shapes(128, (1, 2, 4), 2, 3, 8192)
    assert {name: tuple(value.shape) for name, value in found.items() if name.endswith("weight")} == {
        f"{name}.weight": shape for name, shape in shapes.items()
    }
    assert sum(value.numel() for value in found.values()) == 55_322_782


def test_as_a_codec_an_image_is_the_same_in_any_batch(codec):
    batch = images(6)
    z = codec.encode(batch)
    assert tuple(z.shape[1:]) == codec.encoded_shape((3, 16, 16)) == (3, 8, 8)
    assert codec.decoded_shape((3, 8, 8)) == (3, 16, 16)
    assert torch.equal(torch.cat([codec.encode(image[None]) for image in batch]), z)
    pixels = codec.decode(z)
    assert pixels.dtype == torch.uint8 and torch.equal(codec.decode(z[4:5]), pixels[4:5])
    # codes are a border within which latents do not matter
    assert torch.equal(codec.decode(z + 1e-6), pixels)


def test_it_describes_itself_and_its_weights(codec, file, tmp_path):
    again = build(spec(codec), Codec)
    assert again.fingerprint == codec.fingerprint and torch.equal(
        again.encode(images()), codec.encode(images())
    )
    other = tmp_path / "other.pth"
    torch.save(vq.state(seed=9), other)
    with pytest.raises(FlowlitError, match=r"has weights .*, expected "):
        StoredVQ(str(other), codec.fingerprint)
    assert repr(codec) == "VQ(Frozen(StoredVQ))"


def test_safetensors_in_half_precision_are_read(codec, tmp_path):
    state = {name: value.half() for name, value in vq.state().items()}
    save_file(state, tmp_path / "c.safetensors")
    found = StoredVQ(str(tmp_path / "c.safetensors"))
    assert all(value.dtype == torch.float32 for value in found.parameters())
    difference = VQ(found).encode(images()) - codec.encode(images())
    assert 0 < difference.abs().max() < 0.05


REFUSED = {
    "a tensor is missing": (
        lambda s: s.pop("decoder.norm_out.bias"),
        "1 missing there: decoder.norm_out.bias",
    ),
    "one is unknown": (
        lambda s: s.update({"encoder.down.0.attn.0.q.weight": torch.zeros(3)}),
        "1 unknown here",
    ),
    "of another shape": (lambda s: s.update({"quant_conv.bias": torch.zeros(7)}), "1 of another shape"),
    "without a codebook": (lambda s: s.pop("quantize.embedding.weight"), "no autoencoder with a codebook"),
    "of a layer that would be giant": (
        lambda s: s.update({"encoder.down.0.block.0.conv1.weight": torch.zeros(3_200_000, 1, 1, 1)}),
        "far larger than its weights",
    ),
    "of no channels": (lambda s: s.update({"encoder.conv_in.weight": torch.zeros(0, 3, 3, 3)}), "no autoenc"),
    "of a number": (lambda s: s.update({"quant_conv.weight": torch.tensor(1.0)}), "no autoencoder"),
    "of other groups": (lambda s: s.update({"encoder.conv_in.weight": torch.zeros(30, 3, 3, 3)}), "width 30"),
    "not finite": (lambda s: s["quant_conv.bias"].fill_(float("nan")), "quant_conv.bias"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_other_files_are_refused(change, message, tmp_path):
    state = vq.state()
    change(state)
    torch.save(state, tmp_path / "c.pth")
    with pytest.raises(FlowlitError, match=message) as caught:
        StoredVQ(str(tmp_path / "c.pth"))
    assert "\n" not in str(caught.value)


def test_a_file_of_something_else_is_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "c.pth")
    with pytest.raises(FlowlitError, match="has no state dict"):
        StoredVQ(str(tmp_path / "c.pth"))


def test_other_images_latents_and_networks_are_refused(codec):
    with pytest.raises(FlowlitError, match=r"images of shape \(1, 16, 16\); expected 3 channels"):
        codec.encode(torch.zeros(1, 1, 16, 16, dtype=torch.uint8))
    with pytest.raises(FlowlitError, match="divisible by 2"):
        codec.encode(torch.zeros(1, 3, 15, 16, dtype=torch.uint8))
    with pytest.raises(FlowlitError, match=r"x1 of shape \(4, 8, 8\); its latents have 3 channels"):
        codec.decode(torch.zeros(1, 4, 8, 8))
    with pytest.raises(FlowlitError, match=r"found UNet, expected .*StoredVQ"):
        VQ(UNet(8, 1, 8, [1], 1, []))
