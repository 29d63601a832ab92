"""Metrics of image pairs: the conventions of super-resolution's tables, each against a plain computation."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from flowlit.errors import FlowlitError
from flowlit.metrics.paired import (
    PSNR,
    SSIM,
    channels_of,
    consistency,
    mean_of,
    psnr,
    variance_ratio,
)


def images(seed=0, size=(2, 3, 24, 20), noise=12):
    """Return uint8 images, and the same with noise."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randint(0, 256, size, generator=generator)
    b = (a + torch.randint(-noise, noise + 1, size, generator=generator)).clamp(0, 255)
    return a.to(torch.uint8), b.to(torch.uint8)


def test_studio_range_is_always_the_same_number_above_full_range():
    a, b = images(noise=60)
    difference = PSNR("y")(a, b) - PSNR("luma")(a, b)
    expected = 20 * math.log10(255 / 219)
    assert expected == pytest.approx(1.3219, abs=5e-5)
    torch.testing.assert_close(difference, torch.full_like(difference, expected), atol=2e-4, rtol=0)


def test_y_is_matlabs():
    pixel = torch.tensor([255, 128, 10], dtype=torch.uint8).view(1, 3, 1, 1)
    expected = 16 + 65.481 + 128.553 * 128 / 255 + 24.966 * 10 / 255
    assert channels_of(pixel, "y").item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("channel", ["rgb", "y", "luma"])
def test_equal_images_are_infinitely_alike(channel):
    a, _ = images()
    assert PSNR(channel)(a, a).tolist() == [math.inf] * 2
    assert SSIM(channel)(a, a).tolist() == pytest.approx([1.0, 1.0], abs=1e-12)


def test_psnr_is_that_of_each_image_and_of_its_inside():
    a, b = images()
    b[:, :, :4] = 255 - b[:, :, :4]  # a border that is all wrong
    loop = []
    for one, other in zip(a[..., 4:-4, 4:-4], b[..., 4:-4, 4:-4], strict=True):
        squares = [
            (x - y) ** 2 for x, y in zip(one.flatten().tolist(), other.flatten().tolist(), strict=True)
        ]
        loop.append(10 * math.log10(255**2 / (sum(squares) / len(squares))))
    assert PSNR(crop=4)(a, b).tolist() == pytest.approx(loop, abs=1e-9)
    assert (PSNR(crop=3)(a, b) < PSNR(crop=4)(a, b) - 3).all()


def test_means_are_of_images_not_of_squared_errors():
    a = torch.full((2, 1, 8, 8), 100, dtype=torch.uint8)
    b = a.clone()
    b[0] += 1
    b[1] += 50
    values = PSNR()(a, b)
    pooled = psnr(a.reshape(1, 1, 16, 8), b.reshape(1, 1, 16, 8))
    estimate = mean_of(values)
    assert estimate.value == pytest.approx(values.mean().item()) and estimate.value > pooled.item() + 10
    assert estimate.spread == pytest.approx(abs(values[0] - values[1]).item() / 2)


def slow_ssim(a, b):
    """The definition, a window at a time."""
    line = [math.exp(-((i - 5) ** 2) / (2 * 1.5**2)) for i in range(11)]
    total = sum(line)
    window = torch.tensor([[p * q for q in line] for p in line], dtype=torch.float64) / total**2
    c1 = (0.01 * 255) ** 2
    c2 = (0.03 * 255) ** 2
    values = []
    for channel in range(a.shape[0]):
        for top in range(a.shape[1] - 10):
            for left in range(a.shape[2] - 10):
                x = a[channel, top : top + 11, left : left + 11].double()
                y = b[channel, top : top + 11, left : left + 11].double()
                mx = (window * x).sum()
                my = (window * y).sum()
                vx = (window * (x - mx) ** 2).sum()
                vy = (window * (y - my) ** 2).sum()
                cov = (window * (x - mx) * (y - my)).sum()
                values.append((2 * mx * my + c1) * (2 * cov + c2) / (mx**2 + my**2 + c1) / (vx + vy + c2))
    return torch.stack(values).mean()


@pytest.mark.parametrize("channel", ["rgb", "luma"])
def test_ssim_is_the_mean_of_windows_inside_the_image(channel):
    a, b = images(size=(1, 3, 18, 15), noise=40)
    expected = slow_ssim(
        channels_of(a, channel)[0, ..., 1:-1, 1:-1], channels_of(b, channel)[0, ..., 1:-1, 1:-1]
    )
    assert SSIM(channel, crop=1)(a, b).item() == pytest.approx(expected.item(), abs=1e-9)


def test_ssim_of_an_image_does_not_depend_on_its_batch():
    a, b = images(size=(3, 1, 16, 16), noise=40)
    assert SSIM()(a, b)[1:2].tolist() == SSIM()(a[1:2], b[1:2]).tolist()


def test_grey_images_have_the_same_numbers_as_rgb_ones_without_colours():
    a, b = images(size=(2, 1, 16, 16))
    both = (a.expand(-1, 3, -1, -1), b.expand(-1, 3, -1, -1))
    for metric in (PSNR("y"), PSNR("luma"), SSIM("y"), PSNR(), SSIM()):
        torch.testing.assert_close(metric(a, b), metric(*both), atol=1e-10, rtol=0)


def test_names_have_the_protocol():
    assert PSNR("y", 4).name == "psnr_y_bt601_crop4"
    assert SSIM().name == "ssim_rgb_crop0"
    assert PSNR("y", 4).title == "PSNR Y (BT.601), crop 4, 8 bits"
    each = itertools.product((PSNR, SSIM), ("rgb", "y", "luma"), (0, 4))
    names = {metric(channel, crop).name for metric, channel, crop in each}
    assert len(names) == 12


def test_consistency_is_of_the_low_resolution_image():
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    y = F.avg_pool2d(x, 4)
    assert consistency(F.avg_pool2d(x, 4), y).tolist() == [math.inf] * 2
    assert consistency(y + 0.1, y).tolist() == pytest.approx([20.0, 20.0], abs=1e-4)


def test_samples_of_a_posterior_have_a_variance_ratio_of_1_and_twice_the_least_error():
    generator = torch.Generator().manual_seed(0)

    def normal(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    mean = normal(4000, 16)
    x = mean + 0.5 * normal(4000, 16)
    samples = {r: mean + 0.5 * math.sqrt(r) * normal(4000, 16) for r in (0.0, 0.6, 1.0)}
    least = (mean - x).square().sum(1)
    for r, sample in samples.items():
        estimate = variance_ratio((sample - mean).square().sum(1), least)
        assert abs(estimate.value - r) <= 4 * estimate.spread + 1e-12
        error = (sample - x).square().sum(1).mean() / least.mean()
        assert error.item() == pytest.approx(1 + estimate.value, rel=0.03)
        assert (estimate.spread < 0.02) and (r == 0 or estimate.spread > 0.002)


def test_the_jackknife_is_that_of_leaving_images_out():
    a = torch.tensor([1.0, 2.0, 4.0])
    b = torch.tensor([2.0, 3.0, 3.0])
    left_out = [6 / 6, 5 / 5, 3 / 5]
    mean = sum(left_out) / 3
    expected = math.sqrt(2 / 3 * sum((value - mean) ** 2 for value in left_out))
    assert variance_ratio(a, b) == pytest.approx((7 / 8, expected))
    assert variance_ratio(a[:1], b[:1]).spread is None and mean_of(a[:1]).spread is None


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(1, 3, 8, 9, dtype=torch.uint8)),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(3, 8, 8, dtype=torch.uint8)),
        (torch.zeros(1, 2, 8, 8, dtype=torch.uint8), torch.zeros(1, 2, 8, 8, dtype=torch.uint8)),
        (torch.zeros(0, 3, 8, 8, dtype=torch.uint8), torch.zeros(0, 3, 8, 8, dtype=torch.uint8)),
    ],
    ids=["floats", "sizes", "one image", "channels", "none"],
)
def test_what_is_no_pair_of_images_is_refused(a, b):
    for metric in (PSNR(), SSIM()):
        with pytest.raises(FlowlitError, match="expected uint8"):
            metric(a, b)


def test_borders_that_leave_nothing_are_refused():
    a, b = images(size=(1, 3, 16, 16))
    with pytest.raises(FlowlitError, match="16×16; expected 17 pixels"):
        PSNR(crop=8)(a, b)
    with pytest.raises(FlowlitError, match="expected 17 pixels"):
        SSIM(crop=3)(a, b)
    with pytest.raises(FlowlitError, match="crop is -1"):
        PSNR(crop=-1)
    with pytest.raises(FlowlitError, match="channel is 'Y'"):
        PSNR("Y")


@pytest.mark.slow
def test_photographs_have_the_numbers_that_were_measured_once():
    """Enlarged by 4 with Pillow's bicubic; the other numbers are those of the design's sheet."""
    from sklearn.datasets import load_sample_image

    expected = {"china.jpg": (21.09, 21.13, 22.45), "flower.jpg": (29.31, 29.50, 30.82)}
    for name, numbers in expected.items():
        target = torch.from_numpy(load_sample_image(name).copy()).permute(2, 0, 1)[None, :, :424, :640]
        small = F.interpolate(target.double(), scale_factor=0.25, mode="bicubic", antialias=True)
        small = small.round().clamp(0, 255)
        large = F.interpolate(small, scale_factor=4, mode="bicubic", antialias=True).round().clamp(0, 255)
        values = [PSNR(channel)(large.to(torch.uint8), target).item() for channel in ("rgb", "luma", "y")]
        assert values == pytest.approx(numbers, abs=0.02), name
