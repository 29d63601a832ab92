"""What one does with a generator at a prompt: seeds, labels by name, gradients, pictures, devices."""

import numpy as np
import pytest
import torch
from tools import LinearField, randomise, tiny_unet
from torch import nn

from flowlit.couplings import seeded_normal
from flowlit.data import Patches, Pixels
from flowlit.errors import FlowlitError
from flowlit.generators import Generator, grid, pil
from flowlit.solvers import RK45, SDE, Euler, Heun

SHAPE = (1, 8, 8)
NAMES = ("cat", "dog", "emu")


@pytest.fixture(scope="module")
def generator():
    network = randomise(tiny_unet(num_classes=3), 1).eval()
    return Generator(network, Euler(1), Pixels(), class_names=NAMES)


@pytest.fixture
def plain():
    return Generator(LinearField(), Euler(1), Pixels(), SHAPE)


def test_shape_and_classes_are_those_of_the_network(generator):
    assert generator.shape == SHAPE and generator.num_classes == 3
    assert Generator(generator.network, Euler(1), Pixels(), num_classes=0).num_classes == 0


@pytest.mark.parametrize("solver", [Euler(1), Heun(2), RK45(1e-2, 1e-2), SDE(3)], ids=repr)
def test_the_image_of_a_seed_depends_on_the_seed_alone(generator, solver):
    generate = Generator(generator.network, solver, Pixels()).sample
    images = generate(seeds=[5, 2, 5, 9])
    assert torch.equal(images[0], images[2]) and not torch.equal(images[0], images[1])
    assert torch.equal(generate(seeds=[9]), images[3:])
    assert torch.equal(generate(seeds=[5, 2, 5, 9], batch_size=3), images)
    assert torch.equal(generate(seeds=2)[0], images[1])


def test_a_seed_is_the_first_image_of_that_seed(generator, plain):
    assert torch.equal(generator.sample(seeds=[7], labels="emu"), generator.sample(1, seed=7, labels=2))
    assert torch.equal(plain.sample(seeds=[7, 8])[1], plain.sample(1, seed=8)[0])


@pytest.mark.parametrize("seeds", [[4, 5, 6], (4, 5, 6), range(4, 7), np.arange(4, 7), torch.arange(4, 7)])
def test_seeds_in_any_form(generator, seeds):
    assert torch.equal(generator.sample(seeds=seeds), generator.sample(seeds=[4, 5, 6]))
    assert torch.equal(generator.noise(seeds), generator.noise([4, 5, 6]))


def test_seeds_next_to_each_other_show_every_class(generator):
    balanced = generator.sample(seeds=[3, 4, 5])
    assert torch.equal(balanced, generator.sample(seeds=[3, 4, 5], labels=list(NAMES)))


def test_labels_are_numbers_or_names(generator):
    expected = generator.sample(3, label=[2, 0, 1])
    assert torch.equal(generator.sample(3, labels=["emu", "cat", 1]), expected)
    noise = torch.stack([seeded_normal(0, i, SHAPE) for i in range(3)])
    assert torch.equal(generator(noise, labels=["emu", 0, "dog"]), expected)
    assert torch.equal(generator(noise, {"label": torch.tensor([2, 0, 1])}), expected)


def test_noise_goes_in_and_comes_out(generator):
    noise = generator.noise([1, 2])
    assert noise.dtype == torch.float32 and torch.equal(noise[1], seeded_normal(2, 0, SHAPE))
    assert torch.equal(generator(noise, labels=[1, 2]), generator.sample(seeds=[1, 2], labels=[1, 2]))


@pytest.mark.parametrize("solver", [Euler(1), Heun(2)], ids=repr)
def test_gradients_reach_the_noise(solver):
    network = randomise(tiny_unet(), 1).double().requires_grad_(False)
    generator = Generator(network, solver, Pixels())
    noise = generator.noise([1]).double().requires_grad_()
    weight = torch.randn(1, *SHAPE, dtype=torch.float64)
    generator.solve(noise).x1.mul(weight).sum().backward()
    direction = torch.randn(1, *SHAPE, dtype=torch.float64)
    ends = [generator.solve(noise.detach() + h * direction).x1.mul(weight).sum() for h in (-1e-5, 1e-5)]
    assert float((noise.grad * direction).sum()) == pytest.approx(float(ends[1] - ends[0]) / 2e-5, rel=1e-5)


def test_gradients_reach_weights_that_are_trained(plain):
    plain.solve(plain.noise([1, 2])).x1.sum().backward()
    assert plain.network.c.grad == 2 * 64
    assert not plain(plain.noise([1])).requires_grad


def test_images_are_the_decoded_end(generator):
    noise = generator.noise([1])
    assert torch.equal(generator(noise, labels=1), Pixels().decode(generator.solve(noise, labels=1).x1))


def test_a_network_in_training_generates_in_eval_mode_and_goes_on_in_training():
    network = randomise(tiny_unet(dropout=0.5), 1)
    network.eval()
    expected = Generator(network, Euler(1), Pixels()).sample(3)
    network.train()
    part = next(module for module in network.modules() if isinstance(module, nn.GroupNorm))
    part.eval()
    assert torch.equal(Generator(network, Euler(1), Pixels()).sample(3), expected)
    assert network.training and not part.training


def test_pictures_are_those_of_pil(generator):
    images = generator.sample(3, seed=2)
    pictures = generator.pil(3, seed=2)
    assert [picture.mode for picture in pictures] == ["L"] * 3
    assert np.array_equal(np.stack([np.asarray(picture) for picture in pictures]), images[:, 0].numpy())
    colours = torch.randint(0, 256, (2, 3, 4, 6), dtype=torch.uint8)
    assert np.array_equal(np.asarray(pil(colours)[1]), colours[1].permute(1, 2, 0).numpy())
    assert pil(colours)[0].size == (6, 4)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("count", "columns", "rows"), [(6, 3, 2), (5, 2, 3), (4, None, 2), (2, 9, 1)])
def test_a_grid_has_every_image_in_its_place(channels, count, columns, rows):
    images = torch.randint(0, 256, (count, channels, 4, 6), dtype=torch.uint8)
    picture = np.asarray(grid(images, columns, scale=2))
    columns = min(columns or 2, count)
    assert picture.shape[:2] == (rows * 9 + 1, columns * 13 + 1)
    assert (picture[::9] == 128).all() and (picture[:, ::13] == 128).all()
    for i in range(rows * columns):
        top = 9 * (i // columns) + 1
        left = 13 * (i % columns) + 1
        cell = picture[top : top + 8 : 2, left : left + 12 : 2].reshape(4, 6, channels)
        assert (cell == (images[i].permute(1, 2, 0).numpy() if i < count else 128)).all()


def test_small_images_are_enlarged_in_a_grid(generator):
    assert generator.grid(4, seed=1).size == (2 * 65 + 1, 2 * 65 + 1)
    assert generator.grid(seeds=[1, 2, 3], columns=3, scale=1).size == (3 * 9 + 1, 10)
    assert grid(torch.zeros(1, 3, 100, 80, dtype=torch.uint8)).size == (82, 102)


def test_the_way_from_seed_to_seed_has_their_images(generator):
    images = generator.interpolate([4, 5, 9], steps=4)
    assert images.shape == (7, *SHAPE)
    assert torch.equal(images[::3], generator.sample(seeds=[4, 5, 9], labels=4 % 3))
    assert len({image.numpy().tobytes() for image in images}) == 7
    dogs = generator.interpolate([4, 5], steps=2, labels="dog")
    assert torch.equal(dogs, generator.sample(seeds=[4, 5], labels="dog"))


def test_noise_on_the_way_is_as_likely_as_at_its_ends():
    identity = LinearField(0.0, 0.0, 0.0)
    ends = []
    solve = Generator(identity, Euler(1), Pixels(), (1, 64, 64))
    solve.codec.decode = lambda x1: ends.append(x1) or x1
    solve.interpolate([1, 2], steps=9)
    assert torch.cat(ends).std((1, 2, 3)) == pytest.approx(torch.ones(9).numpy(), abs=0.03)


def test_moved_to_a_device_and_back(generator):
    assert generator.to("cpu") is generator and generator.device == torch.device("cpu")
    assert generator.noise([1]).device == generator.device


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_moved_to_a_gpu_it_makes_the_same_images(generator):
    expected = generator.sample(4).int()
    assert (generator.to("cuda").sample(4).int() - expected).abs().max() <= 1
    assert generator.noise([1]).is_cuda
    generator.to("cpu")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta", 3.5, None, "", "cpu:x"])
def test_a_device_that_this_machine_lacks_is_named(generator, device):
    with pytest.raises(FlowlitError, match=r"device is .*expected one of this machine: cpu"):
        generator.to(device)


def test_latents_are_pictures_too():
    generator = Generator(LinearField(), Euler(1), Patches(), (4, 4, 4))
    assert generator.grid(4, scale=1).size == (19, 19)


def test_more_than_the_memory_holds_is_refused_before_it_is_made(generator):
    """The noise was drawn, or the seeds were listed, before anything was compared with the memory."""
    for ask in (
        lambda: generator.interpolate([1, 2], steps=10**12),
        lambda: generator.sample(seeds=range(10**13)),
        lambda: generator.noise(range(10**13)),
        lambda: generator.grid(2, scale=10**7),
    ):
        with pytest.raises(FlowlitError, match=r"of memory, and .* are free"):
            ask()


def test_labels_beside_conditions_that_are_none_are_refused_in_words(generator):
    for cond in (None, [1]):
        with pytest.raises(FlowlitError, match="conditions are a"):
            generator(generator.noise([1]), cond, labels=0)


def test_images_of_any_size_have_64_pixels_at_least_in_a_grid():
    for side, shown in ((8, 64), (28, 84), (48, 96), (64, 64), (100, 100)):
        picture = grid(torch.zeros(1, 1, side, side, dtype=torch.uint8))
        assert picture.size == (shown + 2, shown + 2)
