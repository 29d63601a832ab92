"""The distance of infinitely many images: on Gaussians whose distance is known, and in its parts."""

import numpy as np
import pytest
import torch

from flowlit.errors import FlowlitError
from flowlit.metrics import FrechetExtrapolated
from flowlit.metrics.base import FeatureBatch
from flowlit.metrics.extrapolated import extrapolate, subset_distances
from flowlit.metrics.frechet import Moments, frechet_distance

DIM = 24
SCALES = torch.linspace(2.0, 0.3, DIM)
SHIFT = 0.5 * SCALES.flip(0)
EQUAL = 0.0
OTHER = float(SHIFT.square().sum() + (SCALES - SCALES.flip(0)).square().sum())
"""‖m‖² + Σ (a - b)², of Gaussians with diagonal covariances."""


def draw(seed, count, other=False):
    x = torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed))
    return x * SCALES.flip(0) + SHIFT if other else x * SCALES


def moments(features):
    found = Moments(features.shape[1])
    found.update(features)
    return found.compute()


def extrapolated(generated, real):
    return FrechetExtrapolated()(FeatureBatch(generated), real)["fid_extrapolated"]


def plain(generated, real):
    return frechet_distance(*moments(generated), *moments(real))


@pytest.mark.parametrize("sizes", [(400, 400), (300, 900), (900, 301), (64, 64)], ids=str)
@pytest.mark.parametrize("other", [False, True], ids=["equal laws", "another law"])
def test_the_bias_of_finite_sets_is_removed_within_the_error(sizes, other):
    truth = OTHER if other else EQUAL
    found, biased = [], []
    for seed in range(30):
        generated, real = draw(2 * seed, sizes[0], other), draw(2 * seed + 1, sizes[1])
        found.append(extrapolated(generated, real))
        biased.append(plain(generated, real))
    bias = np.mean(biased) - truth
    assert bias > 3 * np.std(biased, ddof=1) / 30**0.5, "there is something to remove"
    values = [estimate.value for estimate in found]
    left = np.mean(values) - truth
    assert abs(left) < 0.15 * bias + 3 * np.std(values, ddof=1) / 30**0.5
    within = [abs(estimate.value - truth) < 3 * estimate.spread for estimate in found]
    assert np.mean(within) > 0.85


@pytest.mark.parametrize("other", [False, True], ids=["equal laws", "another law"])
def test_the_spread_is_that_of_other_seeds(other):
    found = [extrapolated(draw(2 * seed, 300, other), draw(2 * seed + 1, 300)) for seed in range(40)]
    truth = np.std([estimate.value for estimate in found], ddof=1)
    assert 0.7 * truth < np.mean([estimate.spread for estimate in found]) < 1.6 * truth


def test_few_and_many_images_give_the_same_distance():
    found = [extrapolated(draw(1, count, other=True), draw(2, count)) for count in (200, 4000)]
    assert abs(found[0].value - found[1].value) < 2 * (found[0].spread + found[1].spread)
    assert found[1].spread < found[0].spread


def test_copies_do_not_pass_for_many_images():
    """A hundred images thirty times each are as biased as a hundred."""
    copies = draw(1, 100).repeat(30, 1)
    assert extrapolated(copies, draw(2, 3000)).value > 0.8 * plain(draw(1, 100), draw(2, 3000))


def test_real_images_sorted_by_class_are_shuffled():
    """Blocks of neighbours would each lack classes."""
    real = torch.cat([draw(seed, 100) + 10 * seed for seed in range(4)])
    generated = torch.cat([draw(10 + seed, 100) + 10 * seed for seed in range(4)])[torch.randperm(400)]
    assert abs(extrapolated(generated, real).value) < 0.01 * float(moments(real)[1].trace())


def test_subsets_are_all_halves_and_three_quarters_and_the_whole():
    generated, real = draw(1, 200), draw(2, 101)
    found = subset_distances(generated, real)
    assert {size: len(distances) for size, distances in found.items()} == {2: 6, 3: 4, 4: 1}
    assert found[4][0] == pytest.approx(plain(generated, real), rel=1e-9)
    assert len(set(found[2])) == 6 and len(set(found[3])) == 4
    assert np.mean(found[2]) > np.mean(found[3]) > found[4][0]


def test_the_line_is_that_of_least_squares_and_its_error_what_is_off():
    places, values = [2.0, 4 / 3, 1.0], [5.0, 3.4, 2.9]
    matrix = np.stack([np.ones(3), places], 1)
    best, residual, *_ = np.linalg.lstsq(matrix, np.array(values), rcond=None)
    intercept, off = extrapolate(places, values)
    assert intercept == pytest.approx(best[0])
    assert off == pytest.approx((residual[0] * np.linalg.inv(matrix.T @ matrix)[0, 0]) ** 0.5)


def test_the_spread_has_both_the_jackknife_and_what_is_off_the_line():
    generated, real = draw(1, 30), draw(2, 30)
    distances = subset_distances(generated, real)
    _, off = extrapolate([2, 4 / 3, 1], [np.mean(distances[size]) for size in (2, 3, 4)])
    without = np.array(distances[3])
    jackknife = 3 / 4 * np.square(without - without.mean()).sum()
    assert off > 0.01 * jackknife**0.5, "there is a bend"
    assert extrapolated(generated, real).spread == pytest.approx((jackknife + off**2) ** 0.5)


def test_the_number_is_the_same_each_time_and_does_not_touch_random_draws(tmp_path):
    generated, real = draw(1, 2500), draw(2, 1100)
    mapped = np.memmap(tmp_path / "x", np.float32, "w+", shape=tuple(generated.shape))
    mapped[:] = generated.numpy()
    state = torch.get_rng_state()
    first = extrapolated(generated, real)
    assert torch.equal(torch.get_rng_state(), state)
    assert first == extrapolated(torch.from_numpy(mapped), real)


def test_too_few_images_are_refused_with_both_numbers():
    for generated, real in ((7, 100), (100, 7)):
        with pytest.raises(FlowlitError, match=f"found {generated} generated and {real} real images"):
            FrechetExtrapolated().check(generated, real)
    FrechetExtrapolated().check(8, 8)
    FrechetExtrapolated().check(8, None)


@pytest.mark.parametrize(("generated", "real", "few"), [(48, 48, False), (47, 900, True), (900, 47, True)])
def test_fewer_than_twice_as_many_images_as_features_are_warned_of(generated, real, few, recwarn):
    extrapolated(draw(1, generated), draw(2, real))
    words = f"{generated} generated and {real} real images for 24 features; with fewer than 48 of each"
    assert [words in str(warning.message) for warning in recwarn] == [True] * few


def test_features_that_are_not_finite_are_refused():
    bad = draw(1, 100)
    bad[3, 1] = torch.nan
    with pytest.raises(FlowlitError, match="not finite"):
        extrapolated(bad, draw(2, 100))
