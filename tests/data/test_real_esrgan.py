"""The degradation of Real-ESRGAN, and what it is made of."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from flowlit.data import Degradation, RealESRGAN
from flowlit.data.blur_kernels import bell, pulse, sinc
from flowlit.data.degradations import seeded
from flowlit.data.jpeg import cosines, jpeg
from flowlit.data.real_esrgan import SINC, filtered, kernel, photons
from flowlit.errors import FlowlitError
from flowlit.networks.checkpoints.spec import build, spec


def smooth(channels, height=40, width=56):
    """An image with edges and slopes."""
    x, y = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    waves = [0.5 + 0.4 * torch.sin(x / (5 + k) + k) * torch.cos(y / (7 - k)) for k in range(channels)]
    image = torch.stack(waves)
    image[:, 10:20, 10:30] = 0.9
    return image


def test_bells_are_what_their_names_say():
    line = np.exp(-(np.arange(-4, 5) ** 2) / (2 * 1.5**2))
    expected = np.outer(line, line) / line.sum() ** 2
    np.testing.assert_allclose(bell(9, (1.5, 1.5), 0.7), expected, atol=1e-15)
    np.testing.assert_allclose(bell(9, (1.5, 1.5), 0, "generalised", 1.0), expected, atol=1e-15)
    np.testing.assert_allclose(bell(9, (2, 1), math.pi / 2), bell(9, (1, 2)), atol=1e-15)
    assert bell(9, (2, 1))[4, 6] > bell(9, (2, 1))[6, 4]  # the first axis lies along the rows
    plateau = bell(9, (2, 2), 0, "plateau", 2.0)
    np.testing.assert_allclose(plateau[4, 4] / plateau[4, 6], 1 + 1**2)
    np.testing.assert_allclose(plateau[4, 4] / plateau[4, 8], 1 + 4**2)


def test_a_sinc_keeps_low_frequencies_and_cuts_high_ones():
    weights = sinc(21, 1.5)
    places = np.arange(-10, 11)
    response = [(weights * np.cos(w * places)[None]).sum() for w in (0.3, 0.5, 2.2, 3.0)]
    assert min(response[:2]) > 0.9 and np.abs(response[2:]).max() < 0.03
    assert weights.min() < 0 and abs(weights.sum() - 1) < 1e-12
    assert sinc(7, math.pi).argmax() == 24


def test_kernels_are_drawn_as_often_as_they_should_be():
    generator = seeded([0])[0]
    drawn = [kernel((0.2, 3.0), generator) for _ in range(1500)]
    assert all(abs(each.sum() - 1) < 1e-12 for each in drawn)
    rings = np.mean([each.min() < -1e-9 for each in drawn])
    assert abs(rings - SINC) < 4 * (SINC * (1 - SINC) / 1500) ** 0.5
    sizes = np.bincount([len(each) for each in drawn])[7:22:2] / 1500
    assert np.abs(sizes - 1 / 8).max() < 4 * (7 / 64 / 1500) ** 0.5


def test_a_pulse_changes_nothing_and_borders_are_mirrored():
    image = smooth(3)
    torch.testing.assert_close(filtered(image, pulse(9)), image)
    constant = torch.full((1, 5, 4), 0.3)
    torch.testing.assert_close(filtered(constant, bell(21, (3, 1), 0.4)), constant)


@pytest.mark.parametrize("quality", [30, 60, 95])
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_pillows(channels, quality):
    image = (smooth(channels) * 255).round() / 255
    pixels = (image * 255).permute(1, 2, 0).to(torch.uint8).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, "JPEG", quality=quality, subsampling=2)
    theirs = np.asarray(Image.open(file), np.float32).reshape(pixels.shape)
    ours = (jpeg(image, quality) * 255).permute(1, 2, 0).numpy()
    difference = np.abs(ours - theirs).mean()
    lost = np.abs(theirs - pixels).mean()
    assert difference < (0.2 if channels == 1 else 0.5) * lost + 0.05, (difference, lost)


def test_the_cosine_transform_is_orthonormal():
    torch.testing.assert_close(cosines() @ cosines().T, torch.eye(8))


def test_photons_have_the_variance_of_their_rates():
    image = torch.full((1, 200, 200), 102 / 255)
    image[:, 0, :64] = torch.arange(64) * 4 / 255  # more than 64 levels: 128
    noise = photons(image, seeded([1])[0])[:, 1:]
    variance = 0.4 / 128
    assert abs(noise.mean()) < 4 * (variance / noise.numel()) ** 0.5
    assert abs(noise.var() / variance - 1) < 4 * (2 / noise.numel()) ** 0.5 * 1.1


@pytest.mark.parametrize("channels", [1, 3])
def test_results_follow_from_image_and_seed(channels):
    images = smooth(channels).expand(4, -1, -1, -1)
    low = RealESRGAN(4)(images, seeded([1, 2, 3, 1]))
    assert low.shape == (4, channels, 10, 14) and low.amin() >= 0 and low.amax() <= 1
    assert torch.equal(low[0], low[3]) and not torch.equal(low[0], low[1])
    assert torch.equal(RealESRGAN(4)(images[:1], seeded([3]))[0], low[2])
    assert torch.equal(low * 255, (low * 255).round())
    assert RealESRGAN(4).enlarge(low).shape == images.shape
    blurred = torch.nn.functional.avg_pool2d(images[:1], 4)
    assert (low.mean((2, 3)) - blurred.mean((2, 3))).abs().amax() < 0.15


def test_the_second_pass_has_its_probability():
    images = smooth(1, 16, 16).expand(24, -1, -1, -1)
    once, half, twice = (RealESRGAN(2, share)(images, seeded(range(24))) for share in (0, 0.5, 1))
    as_once = (half == once).flatten(1).all(1)
    as_twice = (half == twice).flatten(1).all(1)
    assert (as_once | as_twice).all() and 4 <= as_once.sum() <= 20


def test_a_checkpoint_can_build_it_and_other_channels_are_refused():
    assert build(spec(RealESRGAN(2, second=0.5)), Degradation) == RealESRGAN(2, second=0.5)
    with pytest.raises(FlowlitError, match="4 channels; expected 1 or 3"):
        RealESRGAN(2)(torch.rand(1, 4, 8, 8), seeded([0]))
