import pytest
import torch

from flowlit.data import Patches, Pixels
from flowlit.errors import FlowlitError


def test_every_byte_survives_the_round_trip():
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    x1 = Pixels().encode(images)
    assert x1.dtype == torch.float32 and float(x1.min()) == -1 and float(x1.max()) == 1
    assert torch.equal(Pixels().decode(x1), images)


@pytest.mark.parametrize(
    ("level", "expected"), [(0.49, 0), (0.51, 1), (99.6, 100), (100.4, 100), (254.6, 255)]
)
def test_decoding_rounds_and_does_not_truncate(level, expected):
    assert int(Pixels().decode(torch.tensor([level / 127.5 - 1]))) == expected


def test_decoding_clamps_and_does_not_wrap():
    decoded = Pixels().decode(torch.tensor([-7.0, -1.01, 1.01, 7.0]))
    assert decoded.dtype == torch.uint8 and decoded.tolist() == [0, 0, 255, 255]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_decoding_takes_any_precision(dtype):
    images = torch.tensor([0, 64, 128, 255], dtype=torch.uint8)
    error = Pixels().decode(Pixels().encode(images).to(dtype)).int() - images.int()
    assert error.abs().max() <= (1 if dtype == torch.bfloat16 else 0)


def test_patches_keep_distances_and_give_the_same_images_back():
    images = torch.randint(
        0, 256, (5, 3, 6, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    pixels, latents = Pixels().encode(images), Patches().encode(images)
    assert latents.shape == (5, 12, 3, 2) and Patches().encoded_shape((3, 6, 4)) == (12, 3, 2)
    assert torch.allclose(latents.flatten(1).norm(dim=1), pixels.flatten(1).norm(dim=1), rtol=1e-5)
    assert torch.equal(Patches().decode(latents), images) and Patches().decoded_shape((12, 3, 2)) == (3, 6, 4)


def test_the_channels_of_patches_are_a_mean_and_three_differences():
    image = torch.tensor([[255, 0], [0, 0]], dtype=torch.uint8)[None, None]
    a, b, c, d = Pixels().encode(image).flatten()
    mean, across, down, diagonal = Patches().encode(image).flatten()
    assert mean == (a + b + c + d) / 2 and across == (a - b + c - d) / 2
    assert down == (a + b - c - d) / 2 and diagonal == (a - b - c + d) / 2


def test_images_of_odd_size_have_no_patches():
    with pytest.raises(FlowlitError, match=r"Patches: images of shape \(1, 7, 8\).*even"):
        Patches().encode(torch.zeros(1, 1, 7, 8, dtype=torch.uint8))
