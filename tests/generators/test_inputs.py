"""Arguments of a generator in every form that means the same give the same images; others are refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tools import LinearField, randomise, tiny_unet

from flowlit.couplings import SeededNoise
from flowlit.data import Pixels
from flowlit.errors import FlowlitError
from flowlit.generators import Generator
from flowlit.solvers import Euler

SHAPE = (1, 8, 8)
NAMES = ("cat", "dog", "emu")
NOISE = SeededNoise(SHAPE, 5, seed=3).batch(range(5)).x0


@pytest.fixture(scope="module")
def generator():
    network = randomise(tiny_unet(num_classes=3), 1).eval()
    return Generator(network, Euler(1), Pixels(), SHAPE, 3, class_names=NAMES)


@pytest.fixture(scope="module")
def images(generator):
    return generator(NOISE, {"label": torch.tensor([2, 0, 1, 1, 0])})


@pytest.mark.parametrize(
    "noise",
    [
        NOISE.double(),
        NOISE.numpy(),
        NOISE.double().numpy(),
        NOISE.numpy().astype(">f4"),
        NOISE.numpy()[:, :, ::-1][:, :, ::-1],
        NOISE.clone().requires_grad_(),
        NOISE.to(memory_format=torch.channels_last),
    ],
    ids=["float64", "NumPy", "NumPy float64", "big-endian", "reversed twice", "gradients", "channels last"],
)
@pytest.mark.parametrize("kind", ["i8", "u1", ">i2", "tensor"])
def test_noise_and_labels_in_any_form_give_the_same_images(generator, images, noise, kind):
    numbers = [2, 0, 1, 1, 0]
    labels = torch.tensor(numbers).int() if kind == "tensor" else np.array(numbers, kind)
    made = generator(noise, {"label": labels})
    assert torch.equal(made, images) and not made.requires_grad


def test_noise_in_half_precision_is_taken(generator, images):
    made = generator(NOISE.half(), {"label": torch.tensor([2, 0, 1, 1, 0])})
    assert (made.int() - images.int()).abs().max() <= 1


def test_the_noise_that_is_given_stays_as_it_is(generator):
    array = NOISE.double().numpy().copy()
    array.setflags(write=False)
    generator(array, {"label": np.zeros(5, np.int64)})
    assert np.array_equal(array, NOISE.double().numpy())


def test_a_network_in_float64_samples():
    """It was given noise in float32, which its layers refuse."""
    generator = Generator(randomise(tiny_unet(), 1).double(), Euler(1), Pixels())
    assert torch.equal(generator.sample(1), generator(generator.noise([0]).double()))


def test_a_network_in_float64_is_given_float64():
    seen = []

    class Field(LinearField):
        def forward(self, x, t, cond={}):
            seen.append(x.dtype)
            return super().forward(x, t, cond)

    Generator(Field().double(), Euler(1), Pixels())(NOISE.double())
    Generator(Field(), Euler(1), Pixels())(NOISE.double())
    assert seen == [torch.float64, torch.float32]


@pytest.mark.parametrize("three", [np.int64(3), np.uint8(3), torch.tensor(3), np.array(3)], ids=repr)
def test_whole_numbers_of_numpy_and_torch_are_numbers(generator, three):
    assert torch.equal(generator.sample(three, seed=three, batch_size=three), generator.sample(3, seed=3))


@pytest.mark.parametrize(
    "label",
    [
        1,
        "dog",
        np.int64(1),
        torch.tensor(1),
        [1, 1, 1, 1],
        ["dog", 1, "dog", 1],
        np.ones(4, int),
        torch.ones(4).long(),
    ],
    ids=repr,
)
def test_images_of_one_class(generator, label):
    source = SeededNoise(SHAPE, 4, 7, 3, [1, 1, 1, 1])
    made = generator.sample(4, seed=7, label=label)
    assert torch.equal(made, generator.sample(4, seed=7, source=source))
    assert not torch.equal(made, generator.sample(4, seed=7, label="emu"))


def test_image_i_of_a_class_depends_on_seed_and_i_alone(generator):
    made = generator.sample(5, seed=7, label=2)
    assert torch.equal(generator.sample(3, seed=7, label=2, batch_size=2), made[:3])


def test_the_largest_seed_is_a_seed(generator):
    assert generator.sample(1, seed=2**64 - 1).shape == (1, *SHAPE)


def test_noise_of_any_shape_where_the_shape_is_not_known():
    nameless = Generator(LinearField(), Euler(1), Pixels())
    assert nameless(np.zeros((3, 2, 5, 7))).shape == (3, 2, 5, 7)


ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(0, 4),
    st.floats(),
    st.text(max_size=3),
    st.sampled_from(["cat", np.int64(2), np.float32(1), np.zeros((1, 1)), b"x", (), {}, object]),
    st.lists(st.integers(-1, 3), max_size=3),
)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("num", "seed", "batch_size", "label"), ANYTHING)))
def test_any_arguments_give_images_or_one_error(arguments):
    generator = Generator(LinearField(), Euler(1), Pixels(), (1, 2, 2), 3, class_names=NAMES)
    num = arguments.pop("num", 3)
    try:
        images = generator.sample(num, **arguments)
    except FlowlitError as error:
        assert len(str(error)) < 400 and "\n" not in str(error)
    else:
        assert images.shape == (num, 1, 2, 2)
