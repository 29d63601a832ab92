"""Distances of features: against closed forms, Monte Carlo, and torch-fidelity's own numbers on the same
features.
"""

import math

import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_featuresdict_to_metric
from torch_fidelity.metric_kid import kid_featuresdict_to_metric
from torch_fidelity.metric_prc import prc_featuresdict_to_metric

from flowlit.errors import FlowlitError
from flowlit.metrics import KID, InceptionScore, PrecisionRecall
from flowlit.metrics.base import FeatureBatch
from flowlit.metrics.fidelity import tag
from flowlit.metrics.frechet import frechet_distance, frechet_estimates


def draw(seed, count, dim=12, scale=1.0, shift=0.0):
    """Correlated Gaussian features."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(dim, dim, generator=torch.Generator().manual_seed(99)) / dim**0.5
    return scale * torch.randn(count, dim, generator=generator) @ mix + shift


def moments(features):
    x = features.double().numpy()
    return torch.from_numpy(x.mean(0)), torch.from_numpy(np.cov(x, rowvar=False))


# Fréchet
# estimates


def exact(dim, count, mean, scale, seed=0):
    """Features whose sample mean and covariance are exactly ``mean`` and scale² I."""
    x = torch.randn(count, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    x = x - x.mean(0)
    return x @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov())).T * scale + mean


def test_the_distance_of_known_gaussians_is_its_closed_form():
    """‖m‖² + d (a - b)², of all and of the first half, whose moments differ here."""
    first, rest = exact(3, 50, 1.0, 2.0, seed=1), exact(3, 50, 5.0, 2.0, seed=2)
    found = frechet_estimates(torch.cat([first, rest]), torch.zeros(3), torch.eye(3, dtype=torch.float64))
    assert found["fid_half"].value == pytest.approx(3 * 1.0**2 + 3 * (2 - 1) ** 2)
    # all: mean 3, covariance the pooled one plus that of two means at ±2
    pooled = (2 * 49 * 4.0) / 99 * torch.eye(3) + 100 * 4.0 / 99 * torch.ones(3, 3)
    expected = frechet_distance(torch.full((3,), 3.0), pooled, torch.zeros(3), torch.eye(3))
    assert found["fid"].value == pytest.approx(expected, rel=1e-5) and found["fid_half"].spread is None


@pytest.mark.parametrize("count", [4, 5, 7, 19, 101, 1000])
def test_all_and_half_are_those_of_plain_moments(count):
    x, (mean, cov) = draw(1, count, dim=3), moments(draw(2, 500, dim=3, shift=0.3))
    found = frechet_estimates(x, mean, cov)
    assert found["fid"].value == pytest.approx(frechet_distance(*moments(x), mean, cov), rel=1e-7)
    assert found["fid_half"].value == pytest.approx(
        frechet_distance(*moments(x[: count // 2]), mean, cov), rel=1e-7
    )


def test_the_spread_is_that_of_other_seeds():
    """The jackknife's mean over 60 sets against the deviation of the distance over these sets."""
    mean, cov = moments(draw(1, 20_000, dim=4, scale=1.4, shift=0.4))
    found = [frechet_estimates(draw(seed, 500, dim=4), mean, cov)["fid"] for seed in range(100, 160)]
    truth = np.std([estimate.value for estimate in found], ddof=1)
    assert np.sqrt(np.mean([estimate.spread**2 for estimate in found])) == pytest.approx(truth, rel=0.25)


def test_the_spread_is_the_jackknife_over_ten_groups():
    """The slow, obvious way: leave out one tenth after the other."""
    x, (mean, cov) = draw(1, 200, dim=4), moments(draw(2, 500, dim=4))
    without = [
        frechet_distance(*moments(torch.cat([x[: i * 20], x[i * 20 + 20 :]])), mean, cov) for i in range(10)
    ]
    expected = math.sqrt(9 / 10 * sum((value - np.mean(without)) ** 2 for value in without))
    assert frechet_estimates(x, mean, cov)["fid"].spread == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("count", "dim"), [(300, 12), (30, 64)], ids=["full rank", "fewer images than features"]
)
def test_it_agrees_with_torch_fidelity(count, dim):
    one, two = draw(1, count, dim), draw(2, count + 20, dim, scale=1.3, shift=0.2)
    theirs = fid_statistics_to_metric(fid_features_to_statistics(one), fid_features_to_statistics(two), False)
    found = frechet_estimates(one, *moments(two))["fid"].value
    assert found == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)


def test_the_distance_falls_with_the_number_of_images():
    """Its bias, which the half shows: same law, finite sets."""
    mean, cov = moments(draw(1, 50_000))
    found = frechet_estimates(draw(2, 400), mean, cov)
    assert found["fid_half"].value > 1.5 * found["fid"].value > 0


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_images_are_refused(count):
    with pytest.raises(FlowlitError, match=f"at least 4 images, found {count}"):
        frechet_estimates(draw(1, count, 3), torch.zeros(3), torch.eye(3))


def test_features_that_are_not_finite_are_refused_with_their_number():
    x = draw(1, 100, 3)
    x[[3, 7], 1] = torch.inf
    with pytest.raises(FlowlitError, match="2 of 10 samples have features that are not finite"):
        frechet_estimates(x, torch.zeros(3), torch.eye(3))


def test_memory_mapped_features_give_the_same(tmp_path):
    x, reference = draw(1, 2500), moments(draw(2, 300))
    mapped = np.memmap(tmp_path / "x", np.float32, "w+", shape=tuple(x.shape))
    mapped[:] = x.numpy()
    assert frechet_estimates(torch.from_numpy(mapped), *reference) == frechet_estimates(x, *reference)


# ------------------------------------------------------------------------------------------------
# torch-fidelity's own

ONE, TWO = draw(1, 120), draw(2, 150, scale=1.2, shift=0.3)
LOGITS = draw(3, 120, dim=10) * 3
SETTINGS = {"verbose": False, "rng_seed": 2020, "samples_shuffle": True}
"""What its command line does unless told otherwise."""


def test_kernel_distance_is_torch_fidelitys():
    theirs = kid_featuresdict_to_metric(
        {"f": ONE}, {"f": TWO}, "f", kid_subsets=7, kid_subset_size=50, **SETTINGS
    )
    found = KID(subsets=7, subset_size=50)(FeatureBatch(ONE), TWO)["kid"]
    assert found == (theirs["kernel_inception_distance_mean"], theirs["kernel_inception_distance_std"])
    assert found.value > 0.01 and found.spread > 0


def test_kernel_distance_of_all_images_is_its_definition():
    """One subset that is everything: the unbiased estimate with the kernel (x·y / d + 1)³."""
    x, y = ONE.double().numpy(), TWO[:120].double().numpy()

    def kernel(a, b):
        return (a @ b.T / 12 + 1) ** 3

    same = [k.sum() - np.trace(k) for k in (kernel(x, x), kernel(y, y))]
    expected = sum(same) / (120 * 119) - 2 * kernel(x, y).mean()
    found = KID(subsets=2, subset_size=120)(FeatureBatch(ONE), TWO[:120])["kid"]
    assert found.value == pytest.approx(expected, rel=1e-4) and found.spread == pytest.approx(0, abs=1e-6)


def test_inception_score_is_torch_fidelitys():
    theirs = isc_featuresdict_to_metric({"f": LOGITS}, "f", isc_splits=4, **SETTINGS)
    found = InceptionScore(splits=4)(FeatureBatch(ONE, LOGITS), None)["inception_score"]
    assert found == (theirs["inception_score_mean"], theirs["inception_score_std"])


def test_inception_score_of_sure_and_balanced_classes_is_their_number():
    sure = 100 * torch.eye(5).repeat(20, 1)
    assert InceptionScore(splits=1)(FeatureBatch(sure, sure), None)["inception_score"].value == pytest.approx(
        5
    )
    unsure = torch.zeros(100, 5)
    assert InceptionScore(splits=1)(FeatureBatch(unsure, unsure), None)[
        "inception_score"
    ].value == pytest.approx(1)


def test_precision_and_recall_are_torch_fidelitys():
    theirs = prc_featuresdict_to_metric(
        {"f": ONE}, {"f": TWO}, "f", prc_neighborhood=3, prc_batch_size=10_000, **SETTINGS
    )
    found = PrecisionRecall()(FeatureBatch(ONE), TWO)
    assert {name: estimate.value for name, estimate in found.items()} == {
        k: theirs[k] for k in ("precision", "recall")
    }
    assert 0 < found["precision"].value < 1 and found["precision"].spread is None


def test_precision_is_that_of_the_generated_and_recall_that_of_the_real():
    """Real images on two islands, generated ones on the first only: all of these are real, half of those are
    missed.
    """
    islands = torch.cat([draw(1, 50, 2), draw(2, 50, 2) + 1000])
    found = PrecisionRecall(3)(FeatureBatch(islands[:50] + 1e-4), islands)
    assert found["precision"].value == 1 and found["recall"].value == 0.5


def test_precision_and_recall_are_their_definition():
    def share(inside, of, k=3):
        """How many ``inside`` lie nearer to one ``of`` the others than its k-th neighbour among them."""
        radius = (of[:, None] - of[None]).norm(dim=2).sort(1).values[:, k]
        return float(((inside[:, None] - of[None]).norm(dim=2) <= radius).any(1).double().mean())

    found = PrecisionRecall(3)(FeatureBatch(ONE), TWO)
    assert found["precision"].value == pytest.approx(share(ONE.double(), TWO.double()), abs=1e-7)
    assert found["recall"].value == pytest.approx(share(TWO.double(), ONE.double()), abs=1e-7)


# ------------------------------------------------------------------------------------------------------------
# refusals


def test_subsets_larger_than_a_set_are_refused():
    for generated, real in ((999, 5000), (5000, 999)):
        with pytest.raises(
            FlowlitError, match=f"subsets of 1000 images, but there are {generated} generated and {real} real"
        ):
            KID().check(generated, real)
    KID().check(1000, 1000)


def test_more_splits_than_images_are_refused():
    with pytest.raises(FlowlitError, match="10 splits of 9 images"):
        InceptionScore().check(9, None)
    InceptionScore().check(10, None)


def test_more_neighbours_than_images_are_refused():
    with pytest.raises(FlowlitError, match="3 neighbours need more images than 3 generated and 50 real"):
        PrecisionRecall().check(3, 50)
    PrecisionRecall().check(4, 4)
    assert PrecisionRecall()(FeatureBatch(ONE[:4]), TWO[:4])["precision"].value >= 0


@pytest.mark.parametrize(
    ("measure", "arguments"),
    [
        (KID, {"subsets": 0}),
        (KID, {"subset_size": 1}),
        (InceptionScore, {"splits": 0}),
        (PrecisionRecall, {"neighbourhood": 0}),
    ],
)
def test_settings_without_a_meaning_are_refused(measure, arguments):
    with pytest.raises(FlowlitError, match=r"at least 2|a whole number > 0"):
        measure(**arguments).check(5000, 5000)


# tags


def test_only_inceptions_numbers_bear_its_name():
    names = ["fid", "fid_half", "fid_extrapolated", "kid", "inception_score", "precision", "recall"]
    assert [tag("inception", name) for name in names] == names
    others = [tag("inception_0123abcd", name) for name in names]
    assert others == [
        "frechet_inception_0123abcd",
        "frechet_inception_0123abcd_half",
        "frechet_extrapolated_inception_0123abcd",
        "kernel_distance_inception_0123abcd",
        "classifier_score_inception_0123abcd",
        "precision_inception_0123abcd",
        "recall_inception_0123abcd",
    ]
    assert not any(name.startswith(("fid", "kid", "inception_score")) for name in others)
