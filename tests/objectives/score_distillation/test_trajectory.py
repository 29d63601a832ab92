"""TDM: the distribution within a segment, the critic's target, and what one step is."""

import pytest
import tiny
import torch
from gaussians import gaussian, nodes
from torch import nn

from flowlit import rng
from flowlit.errors import FlowlitError
from flowlit.modules import Critic, CriticModule
from flowlit.objectives import CombinedGame, RectifiedFlow, Rolled, Rollout
from flowlit.objectives.distances import SquaredError, VectorPseudoHuber
from flowlit.objectives.score_distillation import DMD, TDM, segment_loss, segment_pair
from flowlit.objectives.times import Fixed
from flowlit.paths.straight import interpolate
from flowlit.types import Pair

DATA = gaussian(0.4, 0.6)
SEGMENTS = [
    (0.0, 0.25, 0.1),
    (0.25, 0.5, 0.3),
    (0.25, 0.5, 0.48),
    (0.5, 0.75, 0.6),
    (0.75, 1.0, 0.9),
    (0.0, 1.0, 0.4),
]


def from_sample(x, noise, since, until):
    """The record of a step that predicts sample x and noise, (B, 1, 1, 1)."""
    times = [x.new_full((len(x),), time) for time in (since, until)]
    return Rolled(x, torch.zeros(len(x)).long(), *times, (1 - since) * noise + since * x)


def moments(x, weights):
    mean = (weights * x.flatten()).sum()
    return mean, (weights * (x.flatten() - mean) ** 2).sum()


@pytest.mark.parametrize(("since", "until", "time"), SEGMENTS)
def test_the_distribution_within_a_segment_is_that_of_noised_data(since, until, time):
    """If that at its end is, which takes an independent noise: x_τ ~ N(τ m, (1 - τ)² + τ² σ²)."""
    z, eta, weights = nodes()
    t = z.new_full((len(z),), time)
    # two numbers stand for three that are independent: ε̂ is 0 here, and its variance is added below
    sample, noise = DATA.mean + DATA.std * z, torch.zeros_like(z)
    rolled = from_sample(sample, noise, since, until)
    pair = segment_pair(rolled, t, eta)
    mean, variance = moments(interpolate(pair.x0, pair.x1, t), weights)
    of_noise = ((1 - until) * time / until) ** 2  # ε̂'s part
    torch.testing.assert_close(mean, time * DATA.mean)
    torch.testing.assert_close(variance + of_noise, DATA.variance(torch.tensor(time).double()))


@pytest.mark.parametrize(("since", "until", "time"), SEGMENTS)
def test_the_noise_of_a_pair_is_standard_normal(since, until, time):
    z, eta, weights = nodes()
    t = z.new_full((len(z),), time)
    pair = segment_pair(from_sample(torch.zeros_like(z), z, since, until), t, eta)
    mean, variance = moments(pair.x0, weights)
    assert [float(mean), float(variance)] == pytest.approx([0, 1], abs=1e-12)


def step(since, until):
    """A step of a linear generator from its exact state at ``since``: x̂ and ε̂ are correlated.

    Returns the nodes' record, η and weights, and the velocity of x_τ in closed form.
    """
    z, eta, weights = nodes()
    start = since * DATA.mean + DATA.variance(torch.tensor(since).double()).sqrt() * z
    v = 0.9 - 0.5 * start  # not that of the data
    sample, noise = start + (1 - since) * v, start - since * v
    rolled = from_sample(sample, noise, since, until)
    mean, variance = moments(until * sample + (1 - until) * noise, weights)

    def velocity(x, t):
        """(x + (1 - t) · score) / t of N(τ / s m_s, (τ / s)² V_s + β²)."""
        share = float(t[0]) / until
        spread = (1 - float(t[0])) ** 2 - share**2 * (1 - until) ** 2
        score = -(x - share * mean) / (share**2 * variance + spread)
        return (x + (1 - float(t[0])) * score) / float(t[0])

    return rolled, eta, weights, velocity


class Line(nn.Module):
    """A velocity plus a line of x, which is where the loss of a linear regression must not lead."""

    def __init__(self, velocity):
        super().__init__()
        self.velocity = velocity
        self.line = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, x, t, cond={}):
        return self.velocity(x, t) + self.line[0] + self.line[1] * x


def pull(loss, weights, critic):
    (gradient,) = torch.autograd.grad((weights * loss).sum(), critic.line)
    return float(gradient.abs().max())


@pytest.mark.parametrize(("since", "until", "time"), SEGMENTS)
def test_the_critics_best_is_the_velocity_of_the_segment(since, until, time):
    rolled, eta, weights, velocity = step(since, until)
    critic = Line(velocity)
    t = eta.new_full((len(eta),), time)
    assert pull(segment_loss(critic, rolled, t, eta, distance=SquaredError()), weights, critic) < 1e-10


@pytest.mark.parametrize(("since", "until", "time"), SEGMENTS)
def test_a_regression_onto_samples_is_biased(since, until, time):
    """The published target, x̂ at x_τ, unless the segment ends at the data."""
    rolled, eta, weights, velocity = step(since, until)
    critic = Line(velocity)
    t = eta.new_full((len(eta),), time)
    pair = segment_pair(rolled, t, eta)
    x_t = interpolate(pair.x0, pair.x1, t)
    target = (rolled.x - x_t) / (1 - time)
    bias = pull((critic(x_t, t) - target).square().flatten(), weights, critic)
    assert (bias < 1e-10) == (until == 1)
    if until < 1:
        assert bias > 0.02


@pytest.mark.parametrize("mutant", ["spread", "mean", "sign"])
def test_other_kernels_are_biased(mutant):
    """The proof above can fail."""
    rolled, eta, weights, velocity = step(0.25, 0.5)
    t = eta.new_full((len(eta),), 0.3)
    changed = {
        "spread": lambda x, t: velocity(x, t + 0.01),
        "mean": lambda x, t: velocity(x, t) + 0.01,
        "sign": lambda x, t: -velocity(x, t),
    }
    critic = Line(changed[mutant])
    assert pull(segment_loss(critic, rolled, t, eta, distance=SquaredError()), weights, critic) > 1e-3


def test_the_weight_makes_targets_of_one_size():
    """Of a critic that is 0 and of samples that are 0, in all segments, also near their ends."""
    _, eta, weights = nodes()
    zero = torch.zeros_like(eta)
    for since, until in [(0.0, 0.25), (0.5, 0.75), (0.0, 1.0)]:
        rolled = from_sample(zero, zero, since, until)
        for place in (0.02, 0.5, 0.98):
            t = eta.new_full((len(eta),), since + place * (until - since))
            loss = segment_loss(lambda x, t, cond: 0 * x, rolled, t, eta, distance=SquaredError())
            assert float((weights * loss).sum()) == pytest.approx(1, abs=1e-9)


def networks():
    torch.manual_seed(0)
    return [tiny.Affine().double() for _ in range(3)]


def batch(rows=6):
    torch.manual_seed(1)
    return Pair(*torch.randn(2, rows, *tiny.SHAPE, dtype=torch.float64))


def test_one_step_is_dmd():
    """Both losses, with the same draws; the segment is the whole way."""
    generator, critic, guide = networks()
    found = []
    for objective in (DMD(guide), TDM(guide, Rollout(1))):
        torch.manual_seed(5)
        loss = objective.student_loss(generator, critic, batch())["loss"]
        gradients = torch.autograd.grad(loss, list(generator.parameters()))
        torch.manual_seed(5)
        of_critic = objective.critic_loss(generator, critic, batch())["loss"]
        found.append([loss, of_critic, *gradients])
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-9)  # times are drawn in float32


def test_the_generators_loss_is_reverse_kl_at_the_state_of_its_segment():
    """Normalised by the guide's error of the sample: (f_ψ - f_φ) / mean|x̂ - f_φ|."""
    generator, critic, guide = networks()
    objective = TDM(guide, Rollout(2, "ode"), Fixed(0.5))
    pair = batch()
    rolled = objective.roll(generator, pair)
    torch.manual_seed(5)
    loss = objective.rolled_loss(rolled, critic, pair)["loss"]
    torch.manual_seed(5)
    noise = rng.randn_like(rolled.x)
    t = (rolled.since + rolled.until) / 2
    wide = t.reshape(-1, 1, 1, 1)
    s, since = rolled.until.reshape(-1, 1, 1, 1), rolled.since.reshape(-1, 1, 1, 1)
    predicted = (rolled.start - since * rolled.x) / (1 - since)
    beta = ((1 - wide) ** 2 - (wide / s) ** 2 * (1 - s) ** 2).sqrt()
    x_t = (wide / s * ((1 - s) * predicted + s * rolled.x) + beta * noise).detach()
    denoised = [x_t + (1 - wide) * network(x_t, t) for network in (critic, guide)]
    error = (rolled.x - denoised[1]).abs().mean((1, 2, 3), keepdim=True)
    direction = ((denoised[0] - denoised[1]) / error).detach()
    torch.testing.assert_close(loss, (direction * rolled.x).mean())


@pytest.mark.parametrize("distance", [None, SquaredError(), VectorPseudoHuber(1e-6)])
def test_a_distance_changes_how_far_samples_are_drawn_and_not_where(distance):
    generator, critic, guide = networks()
    rolled = Rollout(2, "ode")(generator, batch())
    x = rolled.x.detach().requires_grad_()
    directions = []
    for option in (None, distance):
        torch.manual_seed(5)
        loss = TDM(guide, Rollout(2, "ode"), distance=option).rolled_loss(
            rolled._replace(x=x), critic, batch()
        )
        directions.append(torch.autograd.grad(loss["loss"], x)[0].flatten(1))
    plain, other = (direction.norm(dim=1) for direction in directions)
    torch.testing.assert_close(directions[0] / plain[:, None], directions[1] / other[:, None])
    if isinstance(distance, SquaredError):
        torch.testing.assert_close(other, 2 * plain)
    if isinstance(distance, VectorPseudoHuber):
        torch.testing.assert_close(other, other.new_full((6,), 1 / 64 / 6), rtol=1e-3, atol=0)


def test_gradients_reach_the_generator_alone_and_the_critics_the_critic():
    generator, critic, guide = networks()
    critic.requires_grad_(False)
    game = CombinedGame({"tdm": TDM(guide)})
    assert game.rollout == Rollout(4, "ode")
    game.student_loss(generator, critic, batch())["loss"].backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in generator.parameters())
    generator.zero_grad()
    critic.requires_grad_(True)
    game.critic_loss(generator, critic, batch())["loss"].backward()
    assert all(p.grad.any() for p in critic.parameters())
    assert all(p.grad is None for network in (generator, guide) for p in network.parameters())


def test_it_needs_a_trajectory():
    with pytest.raises(FlowlitError, match=r"TDM: the roll-out is .*; expected renoise: ode"):
        TDM(tiny.Affine(), Rollout(4, "fresh"))


def test_a_critic_with_an_objective_of_its_own_is_refused():
    critic = Critic(tiny.Affine(), RectifiedFlow())
    with pytest.raises(FlowlitError, match="TDM: the critic has an objective of its own, RectifiedFlow"):
        CriticModule(tiny.Affine(), TDM(tiny.Affine()), critic)
