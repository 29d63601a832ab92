import pytest
import torch

from flowlit.paths import anneal, endpoint, expand, interpolate

x0, x1 = torch.randn(2, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0))


def test_the_line_starts_at_noise_and_ends_at_data():
    assert torch.equal(interpolate(x0, x1, torch.zeros(3)), x0)
    assert torch.equal(interpolate(x0, x1, torch.ones(3)), x1)


def test_every_sample_has_a_time_of_its_own():
    t = torch.tensor([0.0, 0.25, 1.0])
    assert torch.allclose(interpolate(x0, x1, t)[1], 0.75 * x0[1] + 0.25 * x1[1])
    assert torch.equal(interpolate(x0, x1, t)[2], x1[2])


def test_the_true_velocity_leads_to_data_from_anywhere():
    t = torch.tensor([0.0, 0.3, 0.9])
    assert torch.allclose(endpoint(interpolate(x0, x1, t), x1 - x0, t), x1, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 5), (3, 1, 8, 8), (3, 4, 2, 2, 2)])
def test_expand_broadcasts_over_any_rank(shape):
    assert (expand(torch.arange(3.0), torch.zeros(shape)) + torch.zeros(shape)).flatten(1).std(1).max() == 0


@pytest.mark.parametrize("beta", [0, 0.3, 1])
def test_annealed_noise_keeps_mean_and_variance(beta):
    a, b = torch.randn(2, 400_000, generator=torch.Generator().manual_seed(1))
    mixed = anneal(a, b, beta)
    assert abs(float(mixed.mean())) < 0.006
    assert abs(float(mixed.var()) - 1) < 0.01
    assert abs(float((mixed * a).mean()) - (1 - beta**2) ** 0.5) < 0.01, "correlation with the pair's noise"


def test_beta_0_returns_the_pair_and_beta_1_the_fresh_noise():
    assert anneal(x0, x1, 0.0) is x0
    assert torch.equal(anneal(x0, x1, 1.0), x1)
