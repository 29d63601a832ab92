"""The Fréchet distance, and the moments that it is computed from."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch_fidelity.metric_fid import fid_statistics_to_metric

from flowlit.errors import FlowlitError
from flowlit.metrics.frechet import Moments, few_images, frechet_distance


def features(seed, count=500, dim=12):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dim, generator=generator) @ torch.randn(dim, dim, generator=generator) + seed


def moments(*parts):
    found = Moments(parts[0].shape[1])
    for part in parts:
        found.update(part)
    return found.compute()


def test_distance_of_known_gaussians():
    """Between N(0, diag a²) and N(m, diag b²): |m|² + Σ (a - b)²."""
    a, b, m = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 2.0, 0.5]), torch.tensor([1.0, 0.0, -2.0])
    assert frechet_distance(torch.zeros(3), (a**2).diag(), m, (b**2).diag()) == pytest.approx(
        5 + 1 + 0 + 6.25
    )


@pytest.mark.parametrize("count", [500, 5], ids=["full rank", "fewer samples than dimensions"])
def test_distance_agrees_with_scipy_and_torch_fidelity(count):
    (m1, c1), (m2, c2) = moments(features(1, count)), moments(features(2, count))
    ours = frechet_distance(m1, c1, m2, c2)
    root = scipy.linalg.sqrtm(c1.numpy() @ c2.numpy()).real
    assert ours == pytest.approx(
        float((m1 - m2) @ (m1 - m2) + torch.trace(c1 + c2)) - 2 * np.trace(root), rel=1e-5
    )
    theirs = fid_statistics_to_metric(
        *({"mu": m.numpy(), "sigma": c.numpy()} for m, c in ((m1, c1), (m2, c2))), False
    )
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-5)


def test_distance_of_a_set_to_itself_is_zero():
    mean, cov = moments(features(1))
    assert abs(frechet_distance(mean, cov, mean, cov)) < 1e-9 * float(cov.trace())


def test_distance_is_symmetric():
    one, two = moments(features(1)), moments(features(2))
    assert frechet_distance(*one, *two) == pytest.approx(frechet_distance(*two, *one))


@pytest.mark.parametrize("splits", [[500], [1, 499], [100, 150, 250]], ids=str)
def test_streaming_moments_are_numpys(splits):
    x = features(3)
    mean, cov = moments(*x.split(splits))
    assert mean.dtype == cov.dtype == torch.float64
    assert np.allclose(mean, x.double().numpy().mean(0)) and np.allclose(
        cov, np.cov(x.double().numpy(), rowvar=False)
    )


def test_moments_survive_a_large_offset():
    x = features(3).double() + 1e4
    assert np.allclose(moments(x)[1], np.cov(x.numpy(), rowvar=False), rtol=1e-5)


def test_moments_need_two_samples_and_finite_features():
    with pytest.raises(FlowlitError, match="at least 2 samples, found 1"):
        moments(features(1, count=1))
    bad = features(1)
    bad[3, 2] = torch.nan
    with pytest.raises(FlowlitError, match="1 of 500 samples have features that are not finite"):
        moments(bad)


def test_moments_start_again_after_reset():
    metric = Moments(12)
    metric.update(features(1))
    metric.reset()
    metric.update(features(2))
    assert torch.equal(metric.compute()[0], moments(features(2))[0])


@pytest.mark.parametrize(
    ("generated", "real", "found"),
    [
        (8, 8, "8 generated and 8 real images for 8 features"),
        (1000, 8, "8 real images for 8 features"),
        (8, 9, "8 generated images for 8 features"),
        (8, None, "8 generated images for 8 features"),
        (9, 9, ""),
        (9, None, ""),
    ],
)
def test_fewer_images_than_features_are_one_line_that_says_what_the_number_means(generated, real, found):
    words = few_images(8, generated=generated, real=real)
    assert words.startswith(found) and ("\n" in words) is False
    assert bool(words) == bool(found)
    for part in ("far too large", "exactly as many images", "KID", "FrechetExtrapolated with 16"):
        assert (part in words) == bool(found)
