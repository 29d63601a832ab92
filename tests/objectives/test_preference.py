"""Preferences: gradients at the reference, and none outside of the clamp."""

import pytest
import tiny
import torch

from flowlit.objectives.preference import offline_preference_loss, preference_loss, step_log_ratio
from flowlit.types import Pair

BETA = 3.0


def slopes(better, worse, **options):
    ratios = [torch.tensor([value], dtype=torch.float64, requires_grad=True) for value in (better, worse)]
    loss = preference_loss(*ratios, beta=BETA, **options)
    return loss, [float(slope) for slope in torch.autograd.grad(loss.sum(), ratios)]


@pytest.mark.parametrize("clamp", [None, 0.1])
def test_the_gradient_at_the_reference_is_half_of_beta(clamp):
    loss, found = slopes(0.0, 0.0, clamp=clamp)
    assert float(loss) == pytest.approx(0.6931471805599453)
    assert found == pytest.approx([-BETA / 2, BETA / 2])


def test_outside_of_the_clamp_there_is_none():
    """Ratios of 1 ± 0.1 are the bounds of log-ratios; without a clamp there are gradients everywhere."""
    for better, worse in [(0.2, -0.2), (-0.2, 0.2), (0.0954, -0.1055)]:
        assert slopes(better, worse, clamp=0.1)[1] == [0.0, 0.0]
        assert all(slopes(better, worse)[1])
    inside = slopes(0.2, 0.05, clamp=0.1)[1]
    assert inside[0] == 0.0 != inside[1]
    assert all(slopes(0.0953, -0.1053, clamp=0.1)[1])


def test_a_ratio_is_that_of_the_densities_of_a_step():
    torch.manual_seed(0)
    after, ours, theirs = torch.randn(3, 2, 1, 2, 2, dtype=torch.float64)
    t = torch.tensor([0.3, 0.6], dtype=torch.float64)

    def log_density(endpoint):
        times = t.reshape(-1, 1, 1, 1)
        return torch.distributions.Normal(times * endpoint, 1 - times).log_prob(after).flatten(1).mean(1)

    expected = log_density(ours) - log_density(theirs)
    torch.testing.assert_close(step_log_ratio(after, ours, theirs, t), expected)


def networks():
    torch.manual_seed(1)
    return tiny.Affine().double(), tiny.Affine().double()


def images():
    torch.manual_seed(2)
    noise, better, worse = torch.randn(3, 4, *tiny.SHAPE, dtype=torch.float64)
    return Pair(noise, better), worse


def test_one_step_is_linear_in_the_generator():
    """-log σ of 2 β ⟨G - G_ref, x_better - x_worse⟩ / d: without bounds."""
    ours, reference = networks()
    pair, worse = images()
    start = torch.zeros(4, dtype=torch.float64)
    loss = offline_preference_loss(ours, reference, pair, worse, start, beta=BETA)
    change = ours(pair.x0, start) - reference(pair.x0, start)
    inner = (change * (pair.x1 - worse)).flatten(1).mean(1)
    torch.testing.assert_close(loss, -torch.nn.functional.logsigmoid(2 * BETA * inner))


def test_at_the_reference_it_pulls_to_the_better_image_and_from_the_other():
    ours, reference = networks()
    reference.load_state_dict(ours.state_dict())
    pair, worse = images()
    t = torch.tensor([0.0, 0.2, 0.5, 0.8], dtype=torch.float64)
    loss = offline_preference_loss(ours, reference, pair, worse, t, beta=BETA)
    torch.testing.assert_close(loss, torch.full_like(loss, 2.0).log())
    (slope,) = torch.autograd.grad(loss.sum(), ours.drift)
    times = t.reshape(-1, 1, 1, 1)
    expected = torch.zeros_like(slope)
    for sign, image in ((1, pair.x1), (-1, worse)):
        error = ours(torch.lerp(pair.x0, image, times), t) - (image - pair.x0)
        expected += sign * BETA / 2 * (2 * error * times).sum(0) / 64
    torch.testing.assert_close(slope, expected)
    assert all(p.grad is None for p in reference.parameters())
