"""Gradients of the two losses against closed forms, by quadrature, with a critic in closed form."""

import pytest
import torch
from gaussians import Gaussian, gaussian, kl, linear_pair, nodes

from flowlit.objectives.distances import (
    AbsoluteError,
    PseudoHuber,
    SquaredError,
    VectorPseudoHuber,
)
from flowlit.objectives.score_distillation import reverse_kl_loss, score_identity_loss
from flowlit.paths.straight import interpolate

TIMES = [0.1, 0.37, 0.8]
GUIDE = gaussian(0.3, 0.6)
Z, NOISE, WEIGHTS = nodes()
SMOOTH = [SquaredError(), PseudoHuber(2.0), VectorPseudoHuber(2.0)]


def generator():
    return gaussian(-0.4, 1.3, trained=True)


def fixed(model):
    return Gaussian(*(value.detach() for value in model))


def expectation(losses):
    return (WEIGHTS * losses).sum()


def gradient(value, model):
    return torch.stack(torch.autograd.grad(value, list(model), retain_graph=True))


def times(t):
    return torch.full((len(Z),), t, dtype=torch.float64)


def agree(one, other, tolerance=1e-9):
    return bool((one - other).norm() <= tolerance * other.norm())


def exact_kl_gradient(t):
    model = generator()
    return gradient(kl(model, GUIDE, torch.tensor(t, dtype=torch.float64)), model)


def expected_distance(distance, t, law_fixed):
    """Gradient of E ρ(v_q - v_p), whose critic moves with the generator."""
    model = generator()
    x_t = interpolate(*linear_pair(model, Z, NOISE)[:2], times(t))
    x_t = x_t.detach() if law_fixed else x_t
    y = model(x_t, times(t)) - GUIDE(x_t, times(t))
    return gradient(expectation(distance(y, torch.zeros_like(y))), model)


@pytest.mark.parametrize("t", TIMES)
def test_differences_of_velocities_are_those_of_scores(t):
    """s = (t v - x_t) / (1 - t), so that scores differ by t / (1 - t) · y, denoisers by (1 - t) y."""
    critic = gaussian(0.1, 0.9)
    x_t = torch.linspace(-3, 3, 13, dtype=torch.float64).reshape(-1, 1, 1, 1).requires_grad_()
    time = torch.full((13,), t, dtype=torch.float64)
    scores, denoised = [], []
    for law in (critic, GUIDE):
        variance = law.variance(torch.tensor(t, dtype=torch.float64))
        (score,) = torch.autograd.grad((-((x_t - t * law.mean) ** 2) / (2 * variance)).sum(), x_t)
        v = law(x_t, time)
        mean = law.mean + t * law.std**2 / variance * (x_t - t * law.mean)  # E[x | x_t]
        assert agree((t * v - x_t) / (1 - t), score, 1e-12)
        assert agree(x_t + (1 - t) * v, mean, 1e-12)
        assert agree(x_t - t * v, -(1 - t) * score, 1e-12)
        scores.append(score)
        denoised.append(mean)
    y = critic(x_t, time) - GUIDE(x_t, time)
    assert agree(t / (1 - t) * y, scores[0] - scores[1], 1e-12)
    assert agree((1 - t) * y, denoised[0] - denoised[1], 1e-12)


@pytest.mark.parametrize("t", TIMES)
def test_reverse_kl_has_the_gradient_of_the_divergence(t):
    model = generator()
    loss, residual = reverse_kl_loss(GUIDE, fixed(model), linear_pair(model, Z, NOISE), times(t))
    assert not residual.requires_grad
    assert agree(gradient(expectation(loss) * t**2 / (1 - t), model), exact_kl_gradient(t))


@pytest.mark.parametrize("t", TIMES)
def test_a_gradient_through_the_difference_is_another_one(t):
    """A mutant of reverse KL that differentiates guide and critic."""
    model = generator()
    pair = linear_pair(model, Z, NOISE)
    x_t = interpolate(pair.x0, pair.x1, times(t))
    y = fixed(model)(x_t, times(t)) - GUIDE(x_t, times(t))
    mutant = gradient(expectation((y * pair.x1).flatten()) * t**2 / (1 - t), model)
    assert not agree(mutant, exact_kl_gradient(t), 0.01)


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("correction", [0.0, 1.0])
@pytest.mark.parametrize("distance", SMOOTH, ids=lambda d: type(d).__name__)
def test_score_identity_has_the_gradient_of_the_distance(distance, correction, t):
    """Of all of it with correction 1, and with the distribution of x_t held fixed with 0."""
    model = generator()
    pair = linear_pair(model, Z, NOISE)
    loss, residual = score_identity_loss(
        GUIDE, fixed(model), pair, times(t), distance=distance, correction=correction
    )
    expected = expected_distance(distance, t, law_fixed=correction == 0)
    assert not residual.requires_grad
    # quadrature is exact for polynomials alone
    assert agree(gradient(expectation(loss), model), expected, 1e-9 if distance is SMOOTH[0] else 1e-4)


def mutated_score_identity(pair, critic, t, *, fixed_x_t=False, fixed_slope=False, fixed_u=False):
    x_t = interpolate(pair.x0, pair.x1, t)
    x_t = x_t.detach() if fixed_x_t else x_t
    u = pair.x1 - pair.x0
    u = u.detach() if fixed_u else u
    y = critic(x_t, t) - GUIDE(x_t, t)
    slope = (2 * y).detach() if fixed_slope else 2 * y
    return (y**2 - slope * (critic(x_t, t) - u)).flatten()


@pytest.mark.parametrize("mutation", ["fixed_x_t", "fixed_slope", "fixed_u", None])
@pytest.mark.parametrize("t", TIMES)
def test_each_path_of_the_gradient_counts(t, mutation):
    model = generator()
    pair = linear_pair(model, Z, NOISE)
    options = {} if mutation is None else {mutation: True}
    losses = mutated_score_identity(pair, fixed(model), times(t), **options)
    expected = expected_distance(SquaredError(), t, law_fixed=False)
    assert agree(gradient(expectation(losses), model), expected, 0.01) == (mutation is None)


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("correction", [0.0, 1.0, -0.4])
def test_with_noised_samples_fixed_it_is_reverse_kl(t, correction):
    """Guide and critic that lose the graph, as under no_grad, train DMD silently, whatever the correction."""
    model = generator()
    pair = linear_pair(model, Z, NOISE)

    def without_path(velocity):
        """Have a gradient for the slope, and none for x_t."""
        return lambda x, t, cond: velocity(x.detach(), t).requires_grad_()

    loss, _ = score_identity_loss(
        without_path(GUIDE),
        without_path(fixed(model)),
        pair,
        times(t),
        distance=SquaredError(),
        correction=correction,
    )
    other, _ = reverse_kl_loss(GUIDE, fixed(model), pair, times(t))
    assert agree(gradient(expectation(loss), model), 2 * gradient(expectation(other), model))


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.2])
@pytest.mark.parametrize("t", TIMES)
def test_it_is_sids_loss_in_velocities(alpha, t):
    """L_α = (1 - t)² (v_φ - v_ψ) · [(v_φ - u) - α (v_φ - v_ψ)]: half of ours for the squared error."""
    model = generator()
    pair = linear_pair(model, Z, NOISE)
    critic = gaussian(0.1, 0.9)
    ours, residual = score_identity_loss(
        GUIDE, critic, pair, times(t), distance=SquaredError(), correction=2 * (1 - alpha)
    )
    x_t = interpolate(pair.x0, pair.x1, times(t))
    data, fake = (velocity(x_t, times(t)) for velocity in (GUIDE, critic))
    endpoints = [x_t + (1 - t) * v for v in (data, fake)]
    theirs = (endpoints[0] - endpoints[1]) * (
        (endpoints[0] - pair.x1) - alpha * (endpoints[0] - endpoints[1])
    )
    assert agree((1 - t) ** 2 * ours / 2, theirs.flatten(), 1e-12)
    assert agree((1 - t) * residual, pair.x1 - endpoints[0], 1e-12)


@pytest.mark.parametrize("t", TIMES)
def test_it_is_the_difference_of_two_flow_matching_losses(t):
    """Flow generator matching: ‖v_φ - u‖² - ‖v_ψ - u‖², with correction 1."""
    model = generator()
    pair = linear_pair(model, Z, NOISE)
    critic = gaussian(0.1, 0.9)
    ours, _ = score_identity_loss(GUIDE, critic, pair, times(t), distance=SquaredError(), correction=1.0)
    x_t = interpolate(pair.x0, pair.x1, times(t))
    u = pair.x1 - pair.x0
    theirs = (GUIDE(x_t, times(t)) - u) ** 2 - (critic(x_t, times(t)) - u) ** 2
    assert agree(ours, theirs.flatten(), 1e-12)


@pytest.mark.parametrize(
    ("distance", "slope"),
    [
        (SquaredError(), lambda y: 2 * y / 12),
        (AbsoluteError(), lambda y: y.sign() / 12),
        (PseudoHuber(0.2), lambda y: y / (y**2 + 0.04).sqrt() / 12),
        (VectorPseudoHuber(0.1), lambda y: y / ((y**2).sum((1, 2, 3), True) + 1.2**2).sqrt() / 12),
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_distance_serves(distance, slope):
    """The loss is -⟨∇ρ(y), v_ψ - u⟩ with ∇ρ in closed form."""
    torch.manual_seed(0)
    noise, x = torch.randn(2, 5, 3, 2, 2, dtype=torch.float64)
    t = torch.rand(5, dtype=torch.float64)
    critic = gaussian(0.1, 0.9)
    pair = linear_pair(Gaussian(x, torch.zeros((), dtype=torch.float64)), torch.zeros_like(x), noise)
    pair.x1.requires_grad_()
    loss, _ = score_identity_loss(GUIDE, critic, pair, t, distance=distance, correction=0.0)
    x_t = interpolate(noise, x, t)
    v = critic(x_t, t)
    expected = -(slope(v - GUIDE(x_t, t)) * (v - (x - noise))).sum((1, 2, 3))
    assert agree(loss, expected, 1e-12)
