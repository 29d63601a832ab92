"""Corrections of colours leave detail, and take the colours of the other image."""

import pytest
import torch
import torch.nn.functional as F

from flowlit.generators.colour import FIXES, LEVELS, adain, chroma, low_pass, wavelet


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", FIXES)
def test_an_image_with_its_own_colours_stays(name):
    image = random(2, 3, 40, 30)
    torch.testing.assert_close(FIXES[name](image, image), image)


@pytest.mark.parametrize("name", FIXES)
def test_a_shift_of_colours_is_undone(name):
    image = random(1, 3, 40, 30)
    shift = torch.tensor([0.1, -0.05, 0.02], dtype=torch.float64)[:, None, None]
    fixed = FIXES[name](image + shift, image)
    left = (fixed - image).mean((0, 2, 3))
    assert (left - left.mean()).abs().max() < 1e-9  # no colour; chroma leaves luma as it is
    assert name == "chroma" or left.abs().max() < 1e-9


def test_adain_has_mean_and_spread_of_the_other():
    fixed = adain(random(2, 3, 20, 20), 3 * random(2, 3, 9, 9, seed=1) - 1)
    other = 3 * random(2, 3, 9, 9, seed=1) - 1
    torch.testing.assert_close(fixed.mean((2, 3)), other.mean((2, 3)))
    torch.testing.assert_close(fixed.std((2, 3), correction=0), other.std((2, 3), correction=0))


def test_low_frequencies_are_means_whose_weights_are_binomial():
    """The à trous passes together are one filter: the product of the dilated ones."""
    impulse = torch.zeros(1, 1, 1, 201, dtype=torch.float64)
    impulse[..., 100] = 1
    line = torch.zeros(201, dtype=torch.float64)
    line[100] = 1
    for level in range(LEVELS):
        line = (line.roll(2**level) + 2 * line + line.roll(-(2**level))) / 4
    torch.testing.assert_close(low_pass(impulse.expand(1, 1, 5, 201))[0, 0, 2], line)
    assert low_pass(torch.ones(1, 2, 7, 5)).sub(1).abs().max() < 1e-6


def convolved(images):
    """The same passes as convolutions, which need many times the memory."""
    kernel = images.new_tensor([1.0, 2.0, 1.0]) / 4
    for reach in (1, 2, 4, 8, 16):
        for shape, pad in (((1, 3), (reach, reach, 0, 0)), ((3, 1), (0, 0, reach, reach))):
            weight = kernel.view(1, 1, *shape).expand(images.shape[1], 1, *shape)
            images = F.conv2d(
                F.pad(images, pad, mode="replicate"), weight, groups=images.shape[1], dilation=reach
            )
    return images


@pytest.mark.parametrize("size", [(40, 30), (1, 1), (16, 3), (2, 70)])
@pytest.mark.parametrize("channels", [1, 3])
def test_wavelets_are_convolutions(size, channels):
    image, other = random(2, channels, *size), random(2, channels, *size, seed=1)
    torch.testing.assert_close(low_pass(image), convolved(image))
    expected = image - convolved(image) + convolved(other)
    torch.testing.assert_close(wavelet(image, other), expected)
    torch.testing.assert_close(wavelet(image.float(), other.float()), expected.float(), atol=1e-6, rtol=0)


def test_chroma_is_of_the_other_and_luma_of_the_image():
    image, other = random(2, 3, 8, 6), random(2, 3, 8, 6, seed=1)
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)[:, None, None]
    expected = other + ((image - other) * weights).sum(1, keepdim=True)
    torch.testing.assert_close(chroma(image, other), expected)


@pytest.mark.parametrize("name", FIXES)
def test_inputs_stay_as_they_are(name):
    image, other = random(1, 3, 8, 6), random(1, 3, 8, 6, seed=1)
    FIXES[name](image, other)
    assert torch.equal(image, random(1, 3, 8, 6)) and torch.equal(other, random(1, 3, 8, 6, seed=1))


def test_wavelets_keep_detail():
    checks = (torch.arange(64)[:, None] + torch.arange(64)).remainder(2).double().expand(1, 3, -1, -1)
    flat = torch.full_like(checks, 0.3)
    fixed = wavelet(checks, flat)
    inside = (..., slice(20, -20), slice(20, -20))
    torch.testing.assert_close(fixed[inside], (checks - 0.2)[inside], atol=1e-3, rtol=0)


def test_grey_images_have_no_chroma():
    image = random(1, 1, 8, 8)
    assert chroma(image, random(1, 1, 8, 8, seed=1)) is image
