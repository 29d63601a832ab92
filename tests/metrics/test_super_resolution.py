"""Perceptual distances of pairs of images, and their consistency with what they were enlarged from."""

import math

import pytest
import torch

from flowlit.data import AveragePool, Bicubic, Chain, EightBit, GaussianNoise, RealESRGAN
from flowlit.errors import FlowlitError
from flowlit.metrics import LRConsistency, Perceptual
from flowlit.objectives.distances import AbsoluteError, EfficientNetLite0Distance, SquaredError


def images(seed=0, count=3, size=16):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator).to(torch.uint8)


def test_a_result_with_the_same_means_is_consistent_however_it_looks():
    a = images()
    other = a.unflatten(2, (4, 4)).unflatten(4, (4, 4)).flip(3, 5).flatten(2, 3).flatten(3, 4)
    assert not torch.equal(a, other)
    assert (LRConsistency(AveragePool(4))(other, a) > 200).all()  # dB: rounding of float64
    assert (LRConsistency(AveragePool(2))(other, a) < 40).all()


def test_the_difference_is_that_of_the_degraded_images():
    a = images().clamp(max=200)
    b = a + 10
    assert LRConsistency(AveragePool(4))(b, a).tolist() == pytest.approx([20 * math.log10(25.5)] * 3)
    assert LRConsistency(Bicubic(4))(b, a).tolist() == pytest.approx([20 * math.log10(25.5)] * 3)


def test_noise_and_rounding_are_left_out():
    chain = Chain([AveragePool(2), AveragePool(2), GaussianNoise(0.1), EightBit()])
    metric = LRConsistency(chain)
    assert metric(images(), images(1)).tolist() == pytest.approx(
        LRConsistency(AveragePool(4))(images(), images(1)).tolist()
    )
    assert metric.name == "lr_consistency_averagepool_averagepool_4"


@pytest.mark.parametrize(
    "degradation", [GaussianNoise(0.1), RealESRGAN(4), Chain([AveragePool(2), RealESRGAN(2)])], ids=repr
)
def test_other_random_degradations_are_refused(degradation):
    with pytest.raises(FlowlitError, match=r"LRConsistency: .*expected AveragePool, Bicubic"):
        LRConsistency(degradation)


def test_a_perceptual_distance_is_that_of_images_in_the_range_of_networks():
    a, b = images(), images(1)
    expected = ((a.double() - b.double()) * 2 / 255).square().flatten(1).mean(1)
    assert Perceptual(SquaredError())(a, b).tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    assert Perceptual(AbsoluteError())(a, a).tolist() == [0.0] * 3


def test_names_have_the_network_and_its_size():
    assert Perceptual().name == "efficientnetlite0distance_64"
    assert Perceptual(EfficientNetLite0Distance(resize=96)).name == "efficientnetlite0distance_96"
    assert Perceptual(SquaredError()).name == "squarederror_none"
    assert not Perceptual().larger_is_better


def test_images_of_other_kinds_are_refused():
    for metric in (Perceptual(SquaredError()), LRConsistency(AveragePool(2))):
        with pytest.raises(FlowlitError, match="expected uint8"):
            metric(images(), images(size=8))
