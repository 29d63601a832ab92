"""Degradations: values, sizes, and draws that follow from an image's own seed."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from flowlit.data import AveragePool, Bicubic, Chain, Degradation, EightBit, GaussianNoise, Patches, Pixels
from flowlit.data.bicubic import resize
from flowlit.data.degradations import image_condition, seeded
from flowlit.errors import FlowlitError
from flowlit.networks.checkpoints.spec import build, spec

ALL = [
    AveragePool(4),
    Bicubic(2),
    Bicubic(4, edge="renormalise"),
    GaussianNoise(0.1),
    EightBit(),
    Chain([AveragePool(2), Bicubic(2), GaussianNoise(0.05), EightBit()]),
]
IDS = [repr(each) for each in ALL]


@pytest.mark.parametrize("degradation", ALL, ids=IDS)
def test_a_result_depends_on_its_image_and_seed_alone(degradation):
    images = torch.rand(3, 3, 16, 8)
    low = degradation(images, seeded([5, 6, 7]))
    assert low.shape == (3, 3, 16 // degradation.scale, 8 // degradation.scale)
    assert degradation.enlarge(low).shape == images.shape
    torch.testing.assert_close(degradation(images[[2]], seeded([7])), low[[2]], atol=1e-6, rtol=0)
    same = degradation(images[[0, 0]], seeded([5, 5]))
    assert torch.equal(same[0], same[1])


@pytest.mark.parametrize("degradation", ALL, ids=IDS)
def test_a_checkpoint_can_build_it_again(degradation):
    again = build(spec(degradation), Degradation)
    assert type(again) is type(degradation) and again.scale == degradation.scale
    assert spec(again) == spec(degradation)
    images = torch.rand(1, 1, 8, 8)
    assert torch.equal(again(images, seeded([1])), degradation(images, seeded([1])))


@pytest.mark.parametrize("degradation", [each for each in ALL if "Noise" not in repr(each)], ids=repr)
def test_a_constant_stays_constant(degradation):
    images = torch.full((1, 1, 16, 16), 102 / 255)
    low = degradation(images, seeded([0]))
    torch.testing.assert_close(low, torch.full_like(low, 102 / 255))
    torch.testing.assert_close(degradation.enlarge(low), images)


def test_values():
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    none = seeded([0, 0])
    torch.testing.assert_close(AveragePool(4)(images, none)[1, 2, 0, 1], images[1, 2, :4, 4:].mean())
    assert torch.equal(Bicubic(4)(images, none), resize(images, (2, 2)))
    expected = interpolate(images, (2, 2), mode="bicubic", antialias=True)
    torch.testing.assert_close(Bicubic(4, "renormalise")(images, none), expected)
    levels = EightBit()(images * 1.2 - 0.1, none)
    assert torch.equal(levels * 255, (images * 1.2 - 0.1).clamp(0, 1).mul(255).round())


def test_means_of_what_a_mean_is_enlarged_to_are_the_means():
    low = torch.rand(2, 3, 4, 4)
    pool = AveragePool(4)
    torch.testing.assert_close(pool(pool.enlarge(low), seeded([0, 0])), low)


def test_noise_is_white_and_of_its_strength():
    images = torch.full((1, 3, 128, 128), 0.5)
    noise = GaussianNoise(0.2)(images, seeded([3])) - images
    count = noise.numel()
    assert abs(noise.mean()) < 4 * 0.2 / count**0.5
    assert abs(noise.std() - 0.2) < 4 * 0.2 / (2 * count) ** 0.5
    assert abs((noise[..., 1:] * noise[..., :-1]).mean()) < 4 * 0.2**2 / count**0.5
    assert not torch.equal(noise[0, 0], noise[0, 1])


def test_seeds_indices_and_noise_share_no_draws():
    from flowlit.couplings import seeded_normal

    draws = [
        generator.standard_normal(4, np.float32)
        for generator in seeded([0, 1, 0, 2**64 - 1], [0, 0, 1, 2**50])
    ]
    draws.append(seeded_normal(0, 0, (4,)).numpy())
    assert len({row.tobytes() for row in draws}) == 5
    assert np.array_equal(seeded([1])[0].standard_normal(4, np.float32), draws[1])


def test_a_chain_goes_back_in_reverse():
    low = torch.rand(1, 1, 2, 2)
    chain = Chain([Bicubic(2), GaussianNoise(0.3), AveragePool(2)])
    expected = resize(interpolate(low, scale_factor=2), (8, 8))
    assert chain.scale == 4 and torch.equal(chain.enlarge(low), expected)


def test_conditions_are_as_the_codec_has_images():
    images = torch.rand(2, 3, 4, 4) * 1.2 - 0.1
    enlarged = Bicubic(2).enlarge(images)
    assert torch.equal(image_condition(images, Bicubic(2), Pixels()), enlarged * 2 - 1)
    levels = (enlarged * 255).round().clamp(0, 255).to(torch.uint8)
    folded = image_condition(images, Bicubic(2), Patches())
    assert torch.equal(folded, Patches().encode(levels)) and folded.shape == (2, 12, 4, 4)


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (lambda: AveragePool(0), "scale is 0"),
        (lambda: Bicubic(2, edge="wrap"), "edge is 'wrap'"),
        (lambda: GaussianNoise(-1), "std is -1"),
        (lambda: Chain([]), "expected degradations"),
        (lambda: AveragePool(4)(torch.rand(1, 1, 10, 8), seeded([0])), "10×8 pixels cannot be divided by 4"),
        (lambda: AveragePool(), "scale"),
    ],
)
def test_what_cannot_be_is_refused(wrong, expected):
    with pytest.raises((FlowlitError, TypeError), match=expected):
        wrong()
