"""Images by tiles: a partition of unity, the same as without tiles, and noise that belongs to pixels."""

import itertools
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from flowlit.errors import FlowlitError
from flowlit.generators.tiles import NoiseField, Tiler


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def in_tiles(tiler, image, function=lambda tiles: tiles, **options):
    """Return what a function of tiles (B, C, h, w) makes of an image."""

    def cut(tiles):
        return function(torch.stack([image[:, tile.rows, tile.columns] for tile in tiles]))

    return tiler(cut, image.shape, **options)


@st.composite
def tilers(draw, stride=1):
    tile = draw(st.integers(stride, 40))
    overlap = draw(st.integers(0, tile - stride))
    margin = draw(st.none() | st.integers(0, overlap // 2))
    return Tiler(tile, overlap, margin)


@settings(max_examples=60, deadline=None)
@given(tilers(), st.integers(1, 150))
def test_weights_are_a_partition_of_unity(tiler, length):
    length = max(length, tiler.tile)
    starts = tiler.starts(length)
    weights = tiler.weights(length)
    total = torch.zeros(length)
    for start, weight in zip(starts, weights, strict=True):
        total[start : start + tiler.tile] += weight
    torch.testing.assert_close(total, torch.ones(length), atol=1e-6, rtol=0)
    assert (weights >= 0).all() and weights.shape == (len(starts), tiler.tile)
    assert starts[0] == 0 and starts[-1] == length - tiler.tile
    assert all(b - a <= tiler.tile - tiler.overlap for a, b in itertools.pairwise(starts))
    assert all(b > a for a, b in itertools.pairwise(starts))


@pytest.mark.parametrize("length", [16, 20, 44, 100])
def test_tiles_begin_at_multiples_of_a_unit(length):
    tiler = Tiler(16, 6, unit=4)
    starts = tiler.starts(length)
    assert starts[0] == 0 and starts[-1] == length - 16 and not any(start % 4 for start in starts)
    assert all(0 < b - a <= 8 for a, b in pairwise(starts))
    total = torch.zeros(length)
    for start, weight in zip(starts, tiler.weights(length), strict=True):
        total[start : start + 16] += weight
    torch.testing.assert_close(total, torch.ones(length))
    with pytest.raises(FlowlitError, match="tile is 18; expected a multiple of 4"):
        Tiler(18, 6, unit=4)
    with pytest.raises(FlowlitError, match="overlap is 13; expected 12 pixels at most, the tile's 16 less 4"):
        Tiler(16, 13, unit=4)


def test_weights_of_margins_are_0_but_at_the_image_s_border():
    first, second = Tiler(8, 4, margin=2).weights(12)
    assert first.tolist() == [1.0] * 6 + [0.0] * 2 and second.tolist() == [0.0] * 2 + [1.0] * 6
    first, second = Tiler(8, 4, margin=1).weights(12)
    assert first.tolist() == pytest.approx([1] * 5 + [0.853553, 0.146447, 0], abs=1e-6)
    assert second.tolist() == pytest.approx(first.flip(0).tolist())


@settings(max_examples=30, deadline=None)
@given(tilers(4), st.integers(1, 60), st.integers(1, 60), st.integers(1, 5))
def test_the_identity_by_tiles_is_the_image(tiler, height, width, batch):
    image = random(2, max(height, tiler.tile), max(width, tiler.tile))
    torch.testing.assert_close(in_tiles(tiler, image, batch=batch), image, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("radius", [1, 3])
@pytest.mark.parametrize("more", [0, 4])
def test_a_convolution_by_tiles_is_that_of_the_image_away_from_its_border(radius, more):
    size = 2 * radius + 1
    kernel = random(3, 3, size, size)

    def convolve(images):
        return F.conv2d(images, kernel, padding=radius)

    image = random(3, 45, 61)
    tiler = Tiler(20, 2 * radius + more, margin=radius)
    torch.testing.assert_close(in_tiles(tiler, image, convolve), convolve(image[None])[0], atol=1e-4, rtol=0)
    seams = in_tiles(Tiler(20, 2 * radius - 1), image, convolve) - convolve(image[None])[0]
    assert seams.abs().max() > 0.1  # with less overlap they are seen


def test_pixels_do_not_depend_on_the_batch():
    image = random(3, 50, 40)
    results = [in_tiles(Tiler(16, 4), image, torch.sin, batch=batch) for batch in (1, 2, 5, 100)]
    assert all(torch.equal(results[0], other) for other in results)


def test_a_step_between_tiles_becomes_a_ramp_and_not_a_seam():
    """Tiles that differ by a constant: the blend changes by little from pixel to pixel."""
    tiler = Tiler(32, 16)
    tones = iter(range(100))
    blended = tiler(lambda tiles: torch.full((1, 1, 32, 32), float(next(tones))), (1, 32, 48))
    assert blended[0, 0, 0] == 0 and blended[0, 0, -1] == 1
    assert blended.diff(dim=2).min() >= 0 and blended.diff(dim=2).max() < 0.2


def test_progress_counts_every_tile():
    counts = []
    tiler = Tiler(16, 4)
    in_tiles(tiler, random(1, 50, 40), batch=3, done=counts.append)
    assert sum(counts) == len(tiler.tiles(50, 40)) == 12 and max(counts) == 3


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((8, 8), "overlap is 8; expected fewer pixels than the tile's 8"),
        ((8, 4, 3), "margin is 3; expected at most half"),
        ((0, 0), "tile is 0"),
        ((8, -1), "overlap is -1"),
    ],
)
def test_tiles_that_cannot_be_are_refused(arguments, expected):
    with pytest.raises(FlowlitError, match=expected):
        Tiler(*arguments)


def test_an_image_smaller_than_a_tile_is_refused():
    with pytest.raises(FlowlitError, match="10×20 is smaller than a tile of 16"):
        in_tiles(Tiler(16, 4), random(1, 20, 10))


# noise


def test_noise_is_that_of_the_pixel_wherever_a_tile_begins():
    field = NoiseField(3, 2)
    plane = field(slice(0, 300), slice(0, 200))
    assert plane.shape == (2, 300, 200)
    for tile in Tiler(50, 13).tiles(300, 200):
        assert torch.equal(field(tile.rows, tile.columns), plane[:, tile.rows, tile.columns])


def test_noise_is_normal_and_independent():
    plane = NoiseField(0, 3)(slice(0, 256), slice(0, 256)).double()
    number = plane.numel()
    assert abs(plane.mean()) < 4 / number**0.5 and abs(plane.var() - 1) < 4 * (2 / number) ** 0.5
    shifted = [plane.roll(by, dim) for dim in (1, 2) for by in (1, 64, 128)] + [plane.roll(1, 0)]
    for other in (*shifted, NoiseField(1, 3)(slice(0, 256), slice(0, 256)).double()):
        assert abs((plane * other).mean()) < 4.5 / number**0.5
