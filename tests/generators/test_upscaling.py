"""Images of any size by a generator of super-resolution; a network whose results are known stands for one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from flowlit.couplings import NoisedImage
from flowlit.data import AveragePool, Bicubic, GaussianNoise, Patches, Pixels
from flowlit.errors import FlowlitError
from flowlit.generators import Generator
from flowlit.generators.tiles import NoiseField
from flowlit.generators.upscaling import Upscaler, upscaler_of
from flowlit.networks import ConcatenatedImage, UNet, at_size
from flowlit.solvers import Euler, OneStep


class Known(nn.Module):
    """A velocity whose one step ends at c + a ε + b t, where x0 = c + σ ε."""

    reads = frozenset({"image"})

    def __init__(self, noise=0.0, drift=0.0, channels=3, tile=16):
        super().__init__()
        self.noise = noise
        self.drift = drift
        self.shape = (channels, tile, tile)

    def forward(self, x, t, cond={}):
        residual = x - cond["image"]
        return (self.noise - 1) * residual + self.drift * t[:, None, None, None]


def upscaler(network=None, degradation=None, start=None, solver=None, **options):
    generator = Generator(network or Known(), solver or Euler(1), Pixels())
    start = start or NoisedImage(0.2, preserve_variance=False)
    return Upscaler(generator, degradation or AveragePool(4), start, **options)


def photo(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(3, 4, 4), (3, 23, 9), (3, 1, 1), (3, 2, 31), (1, 9, 5)])
@pytest.mark.parametrize("degradation", [AveragePool(4), Bicubic(2)], ids=["pool", "bicubic"])
def test_the_mean_is_the_image_enlarged_at_any_size(size, degradation):
    image = photo(*size)
    result = upscaler(degradation=degradation)(image)
    expected = degradation.enlarge(image[None])[0].clamp(0, 1)
    assert result.shape == expected.shape
    torch.testing.assert_close(result, expected, atol=2e-6, rtol=0)


def test_noise_belongs_to_pixels_and_to_the_seed():
    result = upscaler(Known(noise=0.5), seed=3)(torch.full((3, 12, 10), 0.5))
    noise = NoiseField(3, 3)(slice(0, 48), slice(0, 40))
    torch.testing.assert_close(result, (0.5 + 0.5 * 0.2 * 0.5 * noise).clamp(0, 1), atol=1e-5, rtol=0)
    assert not torch.equal(result, upscaler(Known(noise=0.5), seed=4)(torch.full((3, 12, 10), 0.5)))


@pytest.mark.parametrize("tile", [32, 80])
def test_pixels_do_not_depend_on_the_batch(tile):
    image = photo(3, 22, 24)
    results = [upscaler(Known(0.5, tile=tile), batch=batch)(image) for batch in (1, 3, 16)]
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize(("tile", "rows"), [(32, 16), (80, 1)])
def test_a_network_sees_whole_blocks_or_single_tiles(tile, rows):
    """So that its last bits are the same in any batch, whatever its kernels."""
    sizes = []

    class Counting(Known):
        def forward(self, x, t, cond={}):
            sizes.append(len(x))
            return super().forward(x, t, cond)

    upscaler(Counting(tile=tile), batch=5)(photo(3, 30, 24))
    assert set(sizes) == {rows}


def test_a_convolution_has_no_seams():
    class Blur(Known):
        def forward(self, x, t, cond={}):
            wide = nn.functional.pad(cond["image"], (1, 1, 1, 1), mode="replicate")
            return nn.functional.avg_pool2d(wide, 3, 1) - x

    image = photo(3, 30, 21)
    result = upscaler(Blur(), overlap=4)(image)
    large = AveragePool(4).enlarge(image[None])
    wide = nn.functional.pad(large, (1, 1, 1, 1), mode="replicate")
    torch.testing.assert_close(result, nn.functional.avg_pool2d(wide, 3, 1)[0], atol=2e-6, rtol=0)


def test_a_grey_image_is_grey_again():
    image = photo(1, 10, 7)
    result = upscaler(Known(noise=0.5))(image)
    assert result.shape == (1, 40, 28)
    assert upscaler(Known(channels=1))(image).shape == (1, 40, 28)
    with pytest.raises(FlowlitError, match="network is for grey images"):
        upscaler(Known(channels=1))(photo(3, 10, 7))


def test_results_that_are_not_finite_are_no_black_images():
    with pytest.raises(FlowlitError, match="are not finite"):
        upscaler(Known(drift=float("nan"), noise=1.0), solver=OneStep(0.5))(photo(3, 10, 7))


def test_back_projection_gives_the_input_again():
    image = 0.25 + 0.5 * photo(3, 11, 6)
    plain = upscaler(Known(noise=0.5))(image)
    degrade = torch.nn.AvgPool2d(4)
    assert (degrade(plain) - image).abs().max() > 0.01
    mended = upscaler(Known(noise=0.5), back_projection=True)(image)
    torch.testing.assert_close(degrade(mended), image, atol=2e-6, rtol=0)


@pytest.mark.parametrize("colour", ["adain", "wavelet", "chroma"])
def test_a_drift_of_colours_is_mended(colour):
    class Pink(Known):
        def forward(self, x, t, cond={}):
            return cond["image"] - x + x.new_tensor([0.2, 0.0, 0.1])[:, None, None]

    image = 0.25 + 0.5 * photo(3, 12, 12)
    expected = AveragePool(4).enlarge(image[None])[0].mean((1, 2))
    means = upscaler(Pink(), colour=colour)(image).mean((1, 2)) - expected
    assert means.max() - means.min() < 1e-4
    means = upscaler(Pink())(image).mean((1, 2)) - expected
    assert means.max() - means.min() > 0.09


# memory


def test_an_input_is_not_changed():
    """Whatever its degradation does, or does not, to bring it to the size of the result."""
    image = photo(3, 16, 16)
    for degradation in (AveragePool(1), GaussianNoise(0.1)):
        upscaler(degradation=degradation, colour="wavelet", back_projection=True)(image)
        assert torch.equal(image, photo(3, 16, 16))


def test_what_the_memory_cannot_hold_is_refused_before_the_first_tile(monkeypatch):
    network = Known()
    needed = upscaler(network).memory(5, 7)
    assert upscaler(network, colour="adain").memory(5, 7) > needed
    assert upscaler(network, back_projection=True).memory(5, 7) > needed
    assert upscaler(network).memory(3, 4000) > 12 * 4 * 4000**2  # matrices of bicubic resizing
    monkeypatch.setattr("flowlit.generators.upscaling.free_memory", lambda device: needed)
    assert upscaler(network)(photo(3, 5, 7)).shape == (3, 20, 28)
    monkeypatch.setattr("flowlit.generators.upscaling.free_memory", lambda device: needed - 1)
    tiles = []
    with pytest.raises(
        FlowlitError, match=r"28×20 needs [\d.]+ kB of memory .* free; enlarge the image in p"
    ):
        upscaler(network)(photo(3, 5, 7), tiles.append)
    assert not tiles


GROWTH = """
import sys
import torch
from test_upscaling import Bicubic, Known, photo, upscaler

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

torch.set_num_threads(1)
options = {"colour": "none", "back_projection": False} | eval(sys.argv[1])
enlarge = upscaler(Known(tile=64), Bicubic(4), batch=1, **options)
enlarge(photo(3, 200, 200))
image = photo(3, 400, 300)
open("/proc/self/clear_refs", "w").write("5")
before = peak()
enlarge(image)
print(peak() - before, enlarge.memory(400, 300))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"colour": "wavelet"}, {"colour": "chroma"}, {"back_projection": True}]
)
def test_it_needs_the_memory_that_it_says(options):
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("the peak of a process is not known here")
    here = str(Path(__file__).parent)
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed, is free at once
    environment["PYTHONPATH"] = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    words = [sys.executable, "-c", GROWTH, repr(options)]
    answer = subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout
    grown, said = map(int, answer.split())
    assert 0.7 * said < grown < said + 12_000_000  # what is not of its size


# in latents


class Folded(nn.Module):
    """A velocity in the latents of ``Patches`` whose one step ends at c + a ε, or at the small image."""

    def __init__(self, noise=0.0, low=False):
        super().__init__()
        self.noise = noise
        self.reads = frozenset({"image", "lr"} if low else {"image"})
        self.shape = (12, 8, 8)

    def forward(self, x, t, cond={}):
        if "lr" in self.reads:  # repeated pixels are means without differences
            end = torch.zeros_like(x)
            end[:, ::4] = 2 * cond["lr"]
            return end - x
        assert "lr" not in cond
        return (self.noise - 1) * (x - cond["image"])


def folded(network, degradation=None, **options):
    generator = Generator(network, Euler(1), Patches())
    start = NoisedImage(0.2, preserve_variance=False)
    return Upscaler(generator, degradation or AveragePool(2), start, **options)


@pytest.mark.parametrize("size", [(3, 9, 7), (3, 1, 23), (1, 11, 5)])
@pytest.mark.parametrize("degradation", [AveragePool(2), Bicubic(1), Bicubic(4)], ids=repr)
def test_latents_are_cut_and_blended_as_their_images(size, degradation):
    image = photo(*size)
    result = folded(Folded(), degradation)(image)
    expected = degradation.enlarge(image[None])[0].clamp(0, 1)
    assert result.shape == expected.shape
    assert (result - expected).abs().max() <= 0.51 / 255


def test_the_low_resolution_image_is_cut_where_its_tile_is():
    image = photo(3, 19, 13)
    result = folded(Folded(low=True))(image)
    assert (result - AveragePool(2).enlarge(image[None])[0]).abs().max() <= 0.51 / 255


def test_noise_of_latents_belongs_to_their_places():
    """Whatever the tiles: neighbours have the same where they overlap, so that nothing is blended away."""
    image = torch.full((3, 19, 13), 0.5)
    result = folded(Folded(noise=1.0), seed=3)(image)
    noise = NoiseField(3, 12)(slice(0, 19), slice(0, 13))[None] * 0.2
    expected = (
        (Patches().decode(Patches().encode(torch.full((1, 3, 38, 26), 128).byte()) + noise)[0]).float() / 255
    )
    assert (result - expected).abs().max() < 2.5 / 255
    assert torch.equal(result, folded(Folded(noise=1.0), seed=3, batch=1)(image))


def test_tiles_of_latents_are_multiples_of_the_codec_s():
    network = at_size(ConcatenatedImage(UNet(8, 12, 8, (1, 2), 1, (), 0.0)), 8, 8)
    generator = trained(network, Euler(1), Patches())
    assert upscaler_of(generator, None, 4, tile=32).generator.shape == (12, 16, 16)
    with pytest.raises(FlowlitError, match="multiple of the scale 4 and of the codec's 2, and 16 pixels"):
        upscaler_of(generator, None, 4, tile=18)
    with pytest.raises(FlowlitError, match="16 pixels at least"):
        upscaler_of(generator, None, 4, tile=12)


# what a checkpoint says


def trained(network=None, solver=None, codec=None, **task):
    network = network or Known(drift=0.5)
    law = {
        "scale": 4,
        "degradation": {"class_path": "flowlit.data.AveragePool", "init_args": {"scale": 4}},
        "start": {"class_path": "flowlit.couplings.NoisedImage", "init_args": {"sigma": 0.2}},
    }
    network.trained_on = {"super_resolution": law | task}
    return Generator(network, solver or OneStep(1.0), codec or Pixels())


def test_the_knob_is_the_solver_s_t():
    image = torch.full((3, 4, 4), 0.4)
    for t, expected in ((None, 1.0), (0.0, 0.0), (0.4, 0.4)):
        result = upscaler_of(trained(Known(1.0, drift=0.5)), t, None)
        assert result.generator.solver.t == expected and result.scale == 4
    values = [upscaler_of(trained(), t, 4)(image).mean().item() for t in (0.0, 0.5, 1.0)]
    torch.testing.assert_close(torch.tensor(values).diff(), torch.full((2,), 0.125), atol=1e-5, rtol=0)


def test_what_does_not_fit_the_checkpoint_is_refused():
    with pytest.raises(FlowlitError, match="scale is 2, but the network was trained for 4"):
        upscaler_of(trained(), None, 2)
    with pytest.raises(FlowlitError, match=r"solver is Euler\(.*, which has no t"):
        upscaler_of(trained(solver=Euler(1)), 0.5, None)
    with pytest.raises(FlowlitError, match="not of super-resolution"):
        upscaler_of(Generator(Known(), Euler(1), Pixels()), None, None)
    with pytest.raises(FlowlitError, match="overlap is 16; expected fewer pixels than a tile has, 16"):
        upscaler_of(trained(), None, None, overlap=16)
    blind = Known()
    blind.reads = frozenset()
    with pytest.raises(FlowlitError, match='condition "image"'):
        upscaler_of(trained(blind), None, None)
