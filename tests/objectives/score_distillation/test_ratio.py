"""f-divergences by density ratios: gradients against the divergences themselves, by quadrature."""

import pytest
import torch
from gaussians import Gaussian, gaussian, linear_pair, nodes

from flowlit.errors import FlowlitError
from flowlit.objectives.score_distillation import DensityRatio, divergence_weight, reverse_kl_loss
from flowlit.objectives.score_distillation.ratio import binned_mean
from flowlit.paths.straight import interpolate

GUIDE = gaussian(0.2, 0.9)
Z, NOISE, WEIGHTS = nodes(64)
GRID = torch.linspace(-14, 14, 20_001, dtype=torch.float64)

DIVERGENCES = {
    "reverse_kl": lambda r: -r.log(),
    "forward_kl": lambda r: r * r.log(),
    "jensen_shannon": lambda r: (r * r.log() - (1 + r) * ((1 + r) / 2).log()) / 2,
    "squared_hellinger": lambda r: (r.sqrt() - 1) ** 2,
    "jeffreys": lambda r: (r - 1) * r.log(),
}
"""f of the divergences E_q f(p / q)."""


def log_density(model, x, t):
    variance = model.variance(t)
    return -((x - t * model.mean) ** 2 / variance + (2 * torch.pi * variance).log()) / 2


def exact_gradient(f, model, t):
    """Of the divergence of noised Gaussians, an integral over a grid."""
    q = log_density(model, GRID, t)
    # f(p / q) of tails would be log 0: the ratio is kept in float64's range
    r = (log_density(GUIDE, GRID, t) - q).exp()
    value = torch.trapezoid(q.exp() * f(r), GRID)
    return torch.stack(torch.autograd.grad(value, list(model)))


def weighted_gradient(weight, model, t):
    fixed = Gaussian(*(value.detach() for value in model))
    pair = linear_pair(model, Z, NOISE)
    times = torch.full((len(Z),), float(t), dtype=torch.float64)
    loss, _ = reverse_kl_loss(GUIDE, fixed, pair, times)
    x_t = interpolate(pair.x0, pair.x1, times).detach().flatten()
    r = (log_density(GUIDE, x_t, t) - log_density(fixed, x_t, t)).exp()
    value = (WEIGHTS * weight(r) * loss).sum() * t**2 / (1 - t)
    return torch.stack(torch.autograd.grad(value, list(model)))


@pytest.mark.parametrize("t", [0.1, 0.37, 0.8])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_the_weight_makes_reverse_kl_another_divergence(divergence, t):
    """And no other divergence, nor the inverse ratio."""
    t = torch.tensor(t, dtype=torch.float64)
    model = gaussian(-0.3, 1.2, trained=True)
    expected = exact_gradient(DIVERGENCES[divergence], model, t)

    def agrees(weight):
        return bool((weighted_gradient(weight, model, t) - expected).norm() < 1e-6 * expected.norm())

    assert [name for name in DIVERGENCES if agrees(lambda r, n=name: divergence_weight(n, r))] == [divergence]
    inverted = agrees(lambda r: divergence_weight(divergence, 1 / r))
    assert inverted == (divergence == "reverse_kl")


def test_weights_have_a_mean_of_one_at_like_times():
    torch.manual_seed(0)
    t = torch.rand(500)
    logits = torch.randn(500)
    weights = DensityRatio("forward_kl", bins=4)(logits, t)
    for place in range(4):
        inside = (t * 4).long() == place
        assert float(weights[inside].mean()) == pytest.approx(1, abs=1e-5)
        ratios = weights[inside] / logits[inside].exp().clamp(0.1, 20)
        torch.testing.assert_close(ratios, ratios[:1].expand_as(ratios))


def test_logits_and_ratios_are_clamped_and_get_no_gradient():
    extreme = torch.tensor([-1e9, -1.0, 0.0, 1e9], requires_grad=True)
    weights = DensityRatio("forward_kl", bins=1)(extreme, torch.zeros(4))
    r = torch.tensor([0.1, torch.e**-1, 1.0, 20.0])
    torch.testing.assert_close(weights, r / r.mean())
    assert not weights.requires_grad


def test_times_at_both_ends_have_a_bin():
    t = torch.tensor([0.0, 0.05, 1.0, 0.95])
    assert binned_mean(torch.tensor([1.0, 3.0, 5.0, 9.0]), t, 10).tolist() == [2, 2, 7, 7]


def test_an_empty_interval_is_refused():
    with pytest.raises(FlowlitError, match=r"DensityRatio: expected low <= high, found 2 and 1"):
        DensityRatio(low=2, high=1)
