"""Two uses of rewards: weights leave the end where it is, gradients tilt the distribution."""

import pytest
import torch
from gaussians import Gaussian, gaussian, linear_pair, nodes

from flowlit.objectives import RewardGradient
from flowlit.objectives.rewards import Reward, RewardWeight
from flowlit.objectives.score_distillation import DMD, ReDMD, ReverseKL, reverse_kl_loss
from flowlit.objectives.times import Fixed
from flowlit.objectives.weights import Powers
from flowlit.types import Pair

GUIDE = gaussian(1.0, 0.6)
Z, NOISE, WEIGHTS = nodes(24)
T = 0.8


class Mean(Reward):
    """r(x) = x, averaged over pixels."""

    def forward(self, x, cond={}):
        return x.flatten(1).mean(1)


class Constant(Reward):
    """The same for all."""

    def forward(self, x, cond={}):
        return x.new_full((len(x),), 0.3)


def slopes(model, *, weight=None, temperature=None, power=2):
    """Gradient with respect to mean and std of A, weighted by t^power / (1 - t) and the reward's share."""
    trained = Gaussian(*(value.detach().clone().requires_grad_() for value in model))
    pair = linear_pair(trained, Z, NOISE)
    times = torch.full((len(Z),), T, dtype=torch.float64)
    loss, _ = reverse_kl_loss(GUIDE, Gaussian(*(value.detach() for value in model)), pair, times)
    loss = loss * T**power / (1 - T)
    if weight is not None:
        loss = weight(pair.x1) * loss
    total = (WEIGHTS * loss).sum()
    if temperature is not None:
        total = total - (WEIGHTS * Mean()(pair.x1)).sum() / temperature
    return torch.stack(torch.autograd.grad(total, list(trained)))


def test_the_gradient_tilts_to_the_predicted_mean():
    """KL(q_t ‖ p_t) - E x / T has its minimum where t² (μ - m) / V_t = 1 / T, with the guide's deviation."""
    temperature = 0.4
    shift = GUIDE.variance(torch.tensor(T, dtype=torch.float64)) / (T**2 * temperature)
    predicted = Gaussian(GUIDE.mean + shift, GUIDE.std)
    assert float(slopes(predicted, temperature=temperature).norm()) < 1e-9
    assert float(shift) > 1
    assert float(slopes(GUIDE, temperature=temperature)[0]) == pytest.approx(-1 / temperature)


def exponential(x, strength=1.0):
    """Weights exp(r) over the standard deviation of r, divided by their mean over the quadrature."""
    rewards = x.detach().flatten(1).mean(1)
    mean = (WEIGHTS * rewards).sum()
    std = (WEIGHTS * (rewards - mean) ** 2).sum().sqrt()
    weights = (strength * (rewards - mean) / std).exp()
    return weights / (WEIGHTS * weights).sum()


def test_weights_leave_a_realisable_optimum_where_it_is():
    assert float(slopes(GUIDE, weight=exponential).norm()) < 1e-9


@pytest.mark.parametrize(("std", "sign"), [(1.2, 1), (0.3, -1)])
def test_weights_move_a_mean_away_from_the_reward_where_the_generator_is_too_wide(std, sign):
    """And towards it where it is too narrow: descent follows minus the slope."""
    plain, weighted = (slopes(gaussian(1.0, std), weight=weight)[0] for weight in (None, exponential))
    assert abs(float(plain)) < 1e-9
    assert sign * float(weighted) > 0.05


def batch(rows=6):
    torch.manual_seed(2)
    return Pair(*torch.randn(2, rows, 1, 4, 4, dtype=torch.float64))


def loss_of(objective):
    x = batch().x1.clone().requires_grad_()
    torch.manual_seed(3)
    loss = objective.sample_loss(x, gaussian(0.2, 0.9), batch())["loss"]
    return loss, torch.autograd.grad(loss, x)[0]


def objective(**options):
    return ReverseKL(Guide(), times=Fixed(0.5), weight=Powers(1, 0), **options)


class Guide(torch.nn.Module):
    def forward(self, x, t, cond={}):
        return GUIDE(x, t)


def test_a_constant_reward_is_plain_reverse_kl():
    for other, plain in [
        (objective(reward=RewardWeight(Constant())), objective()),
        (ReDMD(Guide(), Constant()), DMD(Guide())),
    ]:
        for ours, theirs in zip(loss_of(other), loss_of(plain), strict=True):
            assert torch.equal(ours, theirs)


def test_weights_multiply_the_loss_of_their_sample():
    weights = RewardWeight(Mean())(batch().x1)
    assert float(weights.max() / weights.min()) > 2
    _, plain = loss_of(objective())
    _, weighted = loss_of(objective(reward=RewardWeight(Mean())))
    torch.testing.assert_close(weighted, plain * weights.reshape(-1, 1, 1, 1))


def test_rewards_have_no_gradient_as_weights_and_have_one_as_an_objective():
    _, alone = loss_of(RewardGradient(Mean(), 2.0))
    torch.testing.assert_close(alone, torch.full_like(alone, -1 / (6 * 16 * 2.0)))
