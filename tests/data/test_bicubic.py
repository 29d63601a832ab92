"""Bicubic resizing against MATLAB's rule written literally, Pillow, and torchvision."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from flowlit.data.bicubic import cubic, resize, weights

EDGES = ("symmetric", "renormalise")


def literal(line, new, edge):
    """MATLAB's imresize of one line, tap by tap; Pillow's, if nothing lies beyond the border."""
    size = len(line)
    ratio = new / size
    kernel_width = 4 / min(ratio, 1)
    result = []
    for o in range(new):
        u = (o + 0.5) / ratio - 0.5
        taps = []
        for i in range(math.floor(u - kernel_width / 2) - 1, math.ceil(u + kernel_width / 2) + 2):
            x = abs(u - i) * min(ratio, 1)
            k = 1.5 * x**3 - 2.5 * x**2 + 1 if x <= 1 else -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
            if x < 2:
                taps.append((i, k))
        if edge == "renormalise":
            taps = [(i, k) for i, k in taps if 0 <= i < size]
        padded = [*range(size), *reversed(range(size))]
        total = sum(k for _, k in taps)
        result.append(sum(k / total * line[padded[i % (2 * size)]] for i, k in taps))
    return result


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize(("size", "new"), [(8, 2), (8, 4), (9, 4), (7, 20), (5, 5), (12, 3), (24, 3), (3, 1)])
def test_a_line_is_resized_as_matlab_does(size, new, edge):
    line = torch.rand(size, dtype=torch.float64)
    expected = torch.tensor(literal(line.tolist(), new, edge), dtype=torch.float64)
    torch.testing.assert_close(weights(size, new, edge) @ line, expected, atol=1e-14, rtol=0)


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize(("size", "new"), [(64, 16), (16, 64), (60, 28)])
def test_rows_sum_to_one_and_keep_a_ramp(size, new, edge):
    matrix = weights(size, new, edge)
    torch.testing.assert_close(matrix.sum(1), torch.ones(new, dtype=torch.float64), atol=1e-14, rtol=0)
    ramp = matrix @ torch.arange(size, dtype=torch.float64)
    centres = (torch.arange(new, dtype=torch.float64) + 0.5) * size / new - 0.5
    reach = 2 * max(size / new, 1)
    inside = (centres > reach) & (centres < size - 1 - reach)
    assert inside.sum() > new / 2
    exact = max(size, new) % min(size, new) == 0
    assert (ramp - centres)[inside].abs().amax() < (1e-13 if exact else 0.05)


def test_no_border_is_as_torch_with_antialias_in_both_directions():
    images = torch.rand(2, 3, 24, 20, dtype=torch.float64)
    for size in ((6, 5), (48, 60), (12, 40)):
        expected = interpolate(images, size, mode="bicubic", antialias=True)
        torch.testing.assert_close(resize(images, size, "renormalise"), expected, atol=1e-14, rtol=0)
        borders = (resize(images, size) - expected).abs()
        assert borders.amax() > 1e-3  # the mirrored one differs


def test_the_kernels_differ_near_borders_only():
    images = torch.rand(1, 1, 64, 64, dtype=torch.float64)
    difference = resize(images, (16, 16)) - resize(images, (16, 16), "renormalise")
    assert difference[..., 2:-2, 2:-2].abs().amax() < 1e-14 < difference.abs().amax()


def test_it_is_pillows_up_to_rounding():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 24), np.uint8)
    small = np.asarray(Image.fromarray(pixels).resize((6, 8), Image.Resampling.BICUBIC), np.float64)
    ours = resize(torch.from_numpy(pixels.astype(np.float64))[None, None], (8, 6), "renormalise")
    assert np.abs(ours[0, 0].clamp(0, 255).numpy() - small).max() < 1.5  # Pillow rounds twice


def test_the_kernel_interpolates():
    assert cubic(torch.tensor([0.0, 1.0, 2.0, 2.5, -1.0])).tolist() == [1, 0, 0, 0, 0]
    phases = torch.arange(-2, 2, dtype=torch.float64)[:, None] + torch.linspace(0, 1, 9)
    torch.testing.assert_close(cubic(phases).sum(0), torch.ones(9, dtype=torch.float64))


def test_matrices_of_photographs_are_not_kept():
    """Each size of a photograph has its own, and they are large."""
    assert weights(32, 8) is weights(32, 8)
    large = weights(1200, 1000)
    assert large is not weights(1200, 1000) and torch.equal(large, weights(1200, 1000))
