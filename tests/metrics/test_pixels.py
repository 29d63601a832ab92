"""Pixels as features: values, and what distances in them see."""

import pytest
import torch

from flowlit.errors import FlowlitError
from flowlit.metrics import PixelFeatures
from flowlit.metrics.frechet import frechet_distance


def test_features_are_means_of_brightness():
    """White, black, and red above them, in blocks of four pixels."""
    image = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    image[..., :2, :2] = 255
    image[:, 0, :2, 2:] = 255
    found = PixelFeatures(2)(image)
    assert torch.allclose(found, torch.tensor([[1.0, 2 / 3 - 1, -1.0, -1.0]]), atol=1e-6)


def test_all_pixels_of_grey_images_are_kept():
    images = torch.randint(0, 256, (3, 1, 6, 6), dtype=torch.uint8)
    assert torch.allclose(PixelFeatures(6)(images), images.flatten(1) / 127.5 - 1, atol=1e-6)


def test_images_may_not_be_smaller():
    with pytest.raises(FlowlitError, match="size is 16; expected at most 8"):
        PixelFeatures(16)(torch.zeros(1, 3, 8, 12, dtype=torch.uint8))


def test_sizes_are_different_features():
    eight, sixteen = PixelFeatures(8).fingerprint(), PixelFeatures(16).fingerprint()
    assert eight != sixteen == PixelFeatures(16).fingerprint()
    assert PixelFeatures(8).name == "pixels_8"


def test_noise_counts_by_its_energy():
    """White noise of standard deviation s on white noise: size² (√(1 + s²) - 1)², in the units of each."""
    scale, s = 20 / 127.5, 0.5
    noise = torch.randn(2, 20_000, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 20
    images = [128 + noise[0], 128 + noise[0] + s * noise[1]]
    laws = [
        (features.double().mean(0), torch.cov(features.double().T))
        for features in (PixelFeatures(4)(each.round().to(torch.uint8)) for each in images)
    ]
    expected = 16 * scale**2 * ((1 + s**2) ** 0.5 - 1) ** 2
    assert frechet_distance(*laws[1], *laws[0]) == pytest.approx(expected, rel=0.1)
