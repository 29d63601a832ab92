"""Generators that are trained by preferences: what a step does, where it ends, and what is refused."""

import math

import pytest
import tiny
import torch
from torch import nn

from flowlit import rng
from flowlit.errors import FlowlitError
from flowlit.objectives import PSO, Combined, Distillation, OfflinePSO
from flowlit.objectives.rewards import Brightness, ClassifierReward, JPEGSize
from flowlit.objectives.times import Fixed
from flowlit.types import Pair


def networks():
    torch.manual_seed(1)
    ours, reference = tiny.Affine().double(), tiny.Affine().double()
    reference.load_state_dict(ours.state_dict())
    return ours, reference


def batch(rows=6):
    return Pair(*torch.randn(2, rows, *tiny.SHAPE, dtype=torch.float64))


@pytest.mark.parametrize("steps", [1, 2])
def test_at_the_reference_it_pulls_to_the_better_of_two_samples(steps):
    """dL/dG = -β s (better - worse) / (2 t) · 2 / (2 d) with s = (t / (1 - t))², written out here."""
    ours, reference = networks()
    time, beta = 0.7, 2.0
    objective = PSO(reference, Brightness(1.0), time, steps, beta)
    pair = batch()
    torch.manual_seed(3)
    parts = objective(ours, pair)
    assert parts["loss"].item() == pytest.approx(math.log(2))
    slope = torch.autograd.grad(parts["loss"], ours.mix.bias)[0]
    torch.manual_seed(3)
    x = pair.x0 + ours(pair.x0, torch.zeros(6))
    states = [time * x + (1 - time) * rng.randn_like(x) for _ in range(2)]
    t = torch.full((6,), time)
    images = states if steps == 1 else [y + (1 - time) * ours(y, t) for y in states]
    values = [Brightness(1.0)(y / time if steps == 1 else y) for y in images]
    sign = torch.where(values[0] >= values[1], 1.0, -1.0)[:, None, None, None]
    difference = sign * (states[0] - states[1]) / time
    expected = -beta / 2 * (time / (1 - time)) ** 2 * difference.flatten(1).mean(1).mean()
    torch.testing.assert_close(slope, expected.detach().reshape(1))


def test_far_from_the_reference_there_is_no_gradient():
    ours, reference = networks()
    with torch.no_grad():
        reference.mix.bias += 1.0
    loss = PSO(reference, Brightness(1.0))(ours, batch())["loss"]
    assert float(torch.autograd.grad(loss, ours.mix.bias)[0].abs()) == 0


def test_the_reward_rises_and_the_margin_holds():
    """A generator of one number, its brightness: it moves to the reward's side, and not beyond the bound."""
    torch.manual_seed(0)
    ours, reference = networks()
    time, clamp = 0.9, 0.1
    objective = PSO(reference, Brightness(1.0), time, beta=20.0, clamp=clamp)
    optimizer = torch.optim.SGD([ours.mix.bias], lr=5e-4)
    rewards = []
    for _ in range(200):
        parts = objective(ours, batch(64))
        optimizer.zero_grad()
        parts["loss"].backward()
        optimizer.step()
        rewards.append(float(parts["reward"]))
    moved = float((ours.mix.bias - reference.mix.bias).detach())
    bound = math.sqrt(2 * math.log1p(clamp)) * (1 - time) / time
    assert 0.5 * bound < moved < 4 * bound  # without it: 200 steps of 0.007
    assert sum(rewards[-20:]) > sum(rewards[:20])


def test_stored_images_are_compared_with_those_of_the_reference():
    """Bright ones are drawn to, and others are drawn from: the bias takes the sign of what is better."""
    for brightness, sign in [(3.0, -1), (-3.0, -1)]:
        ours, reference = networks()
        pair = batch()._replace(x1=torch.full((6, *tiny.SHAPE), brightness, dtype=torch.float64))
        objective = OfflinePSO(reference, Brightness(3.0), Fixed(0.0))
        loss = objective(ours, pair)["loss"]
        assert loss.item() == pytest.approx(math.log(2))
        slope = torch.autograd.grad(loss, ours.mix.bias)[0]
        assert float(slope) * sign > 0


def test_it_takes_an_anchor_and_rewards_without_a_gradient():
    ours, reference = networks()
    objective = Combined({"offline": OfflinePSO(reference, JPEGSize()), "anchor": Distillation()})
    objective(ours, batch())["loss"].backward()
    assert ours.mix.bias.grad.abs() > 0


def test_a_reward_of_labels_is_refused_without_them():
    from flowlit.modules import OneStepStudent

    _, reference = networks()
    for kind in (PSO, OfflinePSO):
        with pytest.raises(FlowlitError, match="ClassifierReward needs labels, but Unlabelled is"):
            OneStepStudent(Unlabelled(), kind(reference, ClassifierReward(nn.Identity())))


class Unlabelled(tiny.Affine):
    num_classes = 0


@pytest.mark.parametrize(
    ("options", "message"),
    [({"time": 1.0}, "a time below 1"), ({"clamp": 0.0}, "a clamp above 0"), ({"steps": 3}, "steps")],
)
def test_settings_without_a_gradient_are_refused(options, message):
    with pytest.raises(FlowlitError, match=message):
        PSO(networks()[1], Brightness(), **options)
