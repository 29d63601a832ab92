"""Critics that follow real images, too: RealUID, and mixtures for reverse KL."""

import pytest
import tiny
import torch
from gaussians import Gaussian, gaussian, linear_pair, nodes

from flowlit.errors import FlowlitError
from flowlit.objectives import CombinedGame
from flowlit.objectives.distances import SquaredError
from flowlit.objectives.score_distillation import (
    UID,
    RealUID,
    ReverseKL,
    mixture_loss,
    score_identity_loss,
)
from flowlit.types import Pair

GUIDE = gaussian(0.2, 0.9)
Z, NOISE, WEIGHTS = nodes(64)
GRID = torch.linspace(-12, 12, 8001, dtype=torch.float64)
SHARES = [(0.98, 0.96), (0.9, 0.95), (0.5, 0.5)]
TIMES = [0.1, 0.37, 0.8]


def times(t, like=Z):
    return torch.full((len(like),), t, dtype=torch.float64)


def fixed(model):
    return Gaussian(*(value.detach() for value in model))


def density(model, x, t):
    variance = model.variance(t)
    return (-((x - t * model.mean) ** 2) / (2 * variance)).exp() / (2 * torch.pi * variance).sqrt()


def best_critic(model, a, b):
    """(b q v_q + (1 - b) p v_p) / (a q + (1 - a) p), of noised samples of a model and noised data."""

    def velocity(x, t, cond={}):
        at = t.reshape(-1, 1, 1, 1)
        q, p = density(model, x, at), density(GUIDE, x, at)
        return (b * q * model(x, t) + (1 - b) * p * GUIDE(x, t)) / (a * q + (1 - a) * p)

    return velocity


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize(("a", "b"), SHARES)
def test_the_best_critic_mixes_both_velocities_by_their_densities(a, b, t):
    """No change of it lessens the critic's loss, but a change of a critic of another mixture does."""
    model = gaussian(-0.4, 1.2)
    fake, real = linear_pair(model, Z, NOISE), linear_pair(GUIDE, Z, NOISE)

    def slopes(velocity):
        at = torch.zeros(3, dtype=torch.float64, requires_grad=True)

        def changed(x, t, cond):
            return velocity(x, t) + at[0] + at[1] * x + at[2] * torch.sin(2 * x)

        value = (WEIGHTS * mixture_loss(changed, fake, real, times(t), a=a, b=b)).sum()
        return torch.autograd.grad(value, at)[0]

    assert slopes(best_critic(model, a, b)).norm() < 1e-8
    assert slopes(best_critic(model, a, 1 - b)).norm() > 1e-3 or a == b == 0.5
    assert slopes(model).norm() > 1e-3


def exact_gradient(model, a, b, t):
    """Of ∫ (a q + (1 - a) p) ‖v_ψ - v_φ‖² with the best critic, which moves with the generator."""
    t = torch.tensor(t, dtype=torch.float64)
    x = GRID.reshape(-1, 1, 1, 1)
    y = best_critic(model, a, b)(x, t.expand(len(x))) - GUIDE(x, t.expand(len(x)))
    mixture = a * density(model, x, t) + (1 - a) * density(GUIDE, x, t)
    value = torch.trapezoid((mixture * y**2).flatten(), GRID)
    return torch.stack(torch.autograd.grad(value, list(model)))


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize(("a", "b"), [*SHARES[:2], (1.0, 1.0)])
def test_the_generators_gradient_is_that_of_the_distance_to_the_best_critic(a, b, t):
    """With velocities of the samples on the critic's scale, and on no other."""
    model = gaussian(-0.4, 1.2, trained=True)
    expected = exact_gradient(model, a, b, t)
    pair = linear_pair(model, Z, NOISE)

    def agrees(scale, factor):
        critic = best_critic(fixed(model), a, b)
        loss, _ = score_identity_loss(
            GUIDE, critic, pair, times(t), distance=SquaredError(), correction=1.0, scale=scale
        )
        found = torch.stack(
            torch.autograd.grad((WEIGHTS * factor * loss).sum(), list(model), retain_graph=True)
        )
        return bool((found - expected).norm() < 1e-5 * expected.norm())

    assert agrees(b / a, a)
    assert agrees(1.0, a) == (a == b)
    assert agrees(b / a, 1.0) == (a == 1)


@pytest.mark.parametrize(("a", "b"), SHARES)
def test_the_fixed_point_is_the_guides_distribution(a, b):
    model = gaussian(0.2, 0.9, trained=True)
    for t in TIMES:
        critic = best_critic(fixed(model), a, b)
        x = Z[:50]
        torch.testing.assert_close(critic(x, times(t, x)), GUIDE(x, times(t, x)))
        loss, _ = score_identity_loss(
            GUIDE, critic, linear_pair(model, Z, NOISE), times(t), distance=SquaredError(), scale=b / a
        )
        slopes = torch.autograd.grad((WEIGHTS * loss).sum(), list(model))
        assert torch.stack(slopes).norm() < 1e-10


def networks():
    torch.manual_seed(0)
    return [tiny.Affine().double() for _ in range(3)]


def pair(rows=5):
    torch.manual_seed(1)
    return Pair(*torch.randn(2, rows, *tiny.SHAPE, dtype=torch.float64))


def values(objective, generator, critic, batch):
    torch.manual_seed(2)
    student = objective.student_loss(generator, critic, batch)["loss"].item()
    torch.manual_seed(2)
    return student, objective.critic_loss(generator, critic, batch)["loss"].item()


def test_without_real_images_it_is_uid():
    generator, critic, guide = networks()
    one, other = (
        values(objective, generator, critic, pair()) for objective in (UID(guide), RealUID(guide, 1, 1))
    )
    assert one == pytest.approx(other, rel=1e-12)
    assert not RealUID(guide, 1, 1).reads_images


def test_the_objective_has_these_losses():
    _, critic, guide = networks()
    objective, batch, t = RealUID(guide, 0.9, 0.8), pair(), torch.rand(5, dtype=torch.float64)
    found, _ = objective.loss(critic, batch, t, torch.zeros_like(t))
    expected, _ = score_identity_loss(
        guide, critic, batch, t, distance=SquaredError(), correction=1.0, scale=0.8 / 0.9
    )
    torch.testing.assert_close(found, 0.9 * expected)
    x = batch.x0 + 1
    torch.manual_seed(2)
    loss = objective.critic_sample_loss(x, critic, batch)["loss"]
    torch.manual_seed(2)
    noise, t = torch.randn_like(x, dtype=torch.float32).double(), torch.rand(5)
    real = Pair(torch.randn_like(x, dtype=torch.float32).double(), batch.x1)
    expected = mixture_loss(critic, Pair(noise, x), real, t, a=0.9, b=0.8).mean()
    torch.testing.assert_close(loss, expected)


REAL = {"RealUID": RealUID, "mixture": lambda guide: ReverseKL(guide, real=0.25)}


@pytest.mark.parametrize("kind", REAL)
def test_the_generator_sees_no_real_image_but_the_critic_does(kind):
    generator, critic, guide = networks()
    objective = REAL[kind](guide)
    batch = pair()
    one, other = (
        values(objective, generator, critic, each) for each in (batch, batch._replace(x1=batch.x1 + 1))
    )
    assert one[0] == other[0] and one[1] != other[1]
    assert objective.reads_images and CombinedGame({"it": objective}).reads_images
    assert not ReverseKL(guide).reads_images


def test_a_mixture_adds_the_flow_matching_of_images():
    _, critic, guide = networks()
    batch = pair()
    x = batch.x0 + 1
    torch.manual_seed(2)
    both = ReverseKL(guide, real=0.25).critic_sample_loss(x, critic, batch)["loss"]
    torch.manual_seed(2)
    parts = [ReverseKL(guide).critic_sample_loss(images, critic, batch)["loss"] for images in (x, batch.x1)]
    torch.testing.assert_close(both, 0.75 * parts[0] + 0.25 * parts[1])


def test_only_the_critic_gets_gradients_in_its_turn():
    generator, critic, guide = networks()
    CombinedGame({"uid": RealUID(guide)}).critic_loss(generator, critic, pair())["loss"].backward()
    assert all(p.grad is not None for p in critic.parameters())
    assert all(p.grad is None for network in (generator, guide) for p in network.parameters())


def test_shares_that_leave_nothing_for_images_are_refused():
    with pytest.raises(FlowlitError, match=r"RealUID: a is 1 and b 0\.9; expected a below 1, or both 1"):
        RealUID(tiny.Affine(), 1.0, 0.9)
    with pytest.raises(FlowlitError, match=r"RealUID: a is 0.0; expected a finite number in \(0, 1\]"):
        RealUID(tiny.Affine(), 0.0)
