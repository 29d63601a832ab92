"""Rewards in closed form, and their gradients."""

import math

import pytest
import tiny
import torch
from tools import classifier, tiny_unet
from torch import nn

from flowlit.data import Digits
from flowlit.errors import FlowlitError
from flowlit.modules import Critic, CriticModule
from flowlit.objectives import Combined, CombinedGame, Distillation, RewardGradient
from flowlit.objectives.rewards import (
    Brightness,
    ClassifierReward,
    Colourfulness,
    JPEGSize,
    MirrorSymmetry,
    NearestImages,
    Reward,
    RewardWeight,
    Saturation,
    Sharpness,
    TotalVariation,
)
from flowlit.types import Pair

LABELS = {"label": torch.tensor([0, 1, 2, 3])}


def ramp(down=1.0, across=0.0, size=5):
    """x = down · row + across · column, (1, 3, size, size)."""
    rows = torch.arange(size, dtype=torch.float64)
    plane = down * rows[:, None] + across * rows[None, :]
    return plane.expand(1, 3, size, size).clone()


def colours(*values):
    """An image of one row, a pixel for each (red, green, blue)."""
    return torch.tensor(values, dtype=torch.float64).T[None, :, None, :]


def paraboloid(size=6):
    """x = row² / 2, alternately with and without column²: its Laplacian is 1, or 3."""
    axis = torch.arange(size, dtype=torch.float64)
    return (axis[:, None] ** 2 / 2).expand(1, 3, size, size), (axis[:, None] ** 2 / 2 + axis**2).expand(
        1, 3, size, size
    )


CASES = {
    "brightness": (Brightness(0.5), ramp(1.0, size=3), -0.25),
    "colourfulness of grey": (Colourfulness(), ramp(), 0.0),
    # red - green is 1 and -1, the other opponent ±½ about 0 as well: √(1 + ¼) + 0
    "colourfulness of deviations": (Colourfulness(), colours((1, 0, 0), (0, 1, 1)), math.sqrt(1.25)),
    # of one colour, (1, 0, 0): √(1² + ½²) · 0.3
    "colourfulness of a mean": (Colourfulness(), colours((1, 0, 0), (1, 0, 0)), 0.3 * math.sqrt(1.25)),
    "saturation": (Saturation(), colours((1, -1, 0), (0.5, 0.5, 0.5)), 1.0),
    "sharpness of a plane": (Sharpness(), ramp(1.0, 2.0), 0.0),
    "sharpness of a paraboloid": (Sharpness(), paraboloid()[1], 0.0),
    # the Laplacian of a single dot of 1 in 5 × 5, at the inner 3 × 3 pixels: -4, four 1, four 0
    "sharpness of a dot": (
        Sharpness(),
        torch.eye(25, dtype=torch.float64)[12].reshape(1, 1, 5, 5),
        (16 + 4) / 9,
    ),
    "total variation": (TotalVariation(), ramp(1.0, -2.0), -3.0),
    "symmetry of columns": (MirrorSymmetry(), ramp(1.0), 0.0),
    # columns 0, 1, 2 against 2, 1, 0
    "symmetry of rows": (MirrorSymmetry(), ramp(0.0, 1.0, size=3), -8 / 3),
}


@pytest.mark.parametrize(("reward", "image", "expected"), CASES.values(), ids=CASES)
def test_closed_forms(reward, image, expected):
    assert reward(image).shape == (1,)
    assert float(reward(image)) == pytest.approx(expected, abs=2e-6)


def test_order_of_images_is_that_of_rewards():
    torch.manual_seed(0)
    images = torch.randn(3, 3, 6, 6)
    for reward in (Brightness(), Colourfulness(), Saturation(), Sharpness(), TotalVariation(), JPEGSize()):
        one_by_one = torch.cat([reward(image[None]) for image in images])
        torch.testing.assert_close(reward(images), one_by_one)


@pytest.mark.parametrize(
    "reward",
    [Brightness(2.0), Colourfulness(), Saturation(), Sharpness(), TotalVariation(), MirrorSymmetry()],
    ids=lambda reward: type(reward).__name__,
)
def test_gradients_are_finite_also_for_one_grey_level(reward):
    for image in (torch.zeros(2, 3, 5, 5), torch.randn(2, 3, 5, 5)):
        x = image.requires_grad_()
        (slope,) = torch.autograd.grad(reward(x).sum(), x)
        assert bool(slope.isfinite().all())
    assert bool(slope.any()), "and not 0 for noise"


def test_colours_need_three_channels():
    for reward in (Colourfulness(), Saturation()):
        with pytest.raises(
            FlowlitError, match=f"{type(reward).__name__}: images have 1 channels; expected 3"
        ):
            reward(torch.zeros(2, 1, 4, 4))


def test_a_classifier_rewards_by_its_log_probability():
    network = classifier()
    x = torch.randn(4, *tiny.SHAPE, requires_grad=True)
    logits = network(x)
    found = ClassifierReward(network)(x, LABELS)
    torch.testing.assert_close(found, logits.log_softmax(1).diagonal())
    assert bool(torch.autograd.grad(found.sum(), x)[0].any())
    assert all(p.grad is None for p in network.parameters())
    others = [max(v for j, v in enumerate(row) if j != i) for i, row in enumerate(logits.tolist())]
    margins = ClassifierReward(network, margin=True)(x, LABELS)
    torch.testing.assert_close(margins, logits.diagonal() - torch.tensor(others))


def test_a_classifier_without_labels_is_refused():
    reward = ClassifierReward(classifier())
    with pytest.raises(FlowlitError, match="cond has no 'label'; give the data labels: true"):
        reward(torch.zeros(2, *tiny.SHAPE))
    for objective in (RewardGradient(reward), CombinedGame({"reward": RewardGradient(reward)})):
        with pytest.raises(FlowlitError, match="ClassifierReward needs labels, but UNet is unconditional"):
            CriticModule(tiny_unet(), objective, Critic(tiny.Affine()))
        CriticModule(tiny_unet(num_classes=10), objective, Critic(tiny.Affine()))


FLAT = nn.Flatten()


def test_near_images_are_rewarded_by_their_mean_distance():
    """Of the k nearest in features; other images do not count."""
    images = Digits(limit=300, labels=False)
    real = torch.stack([images[i]["x1"] for i in range(300)]).float() / 127.5 - 1
    x = (real[:4] + 0.1 * torch.randn(4, *tiny.SHAPE)).requires_grad_()
    found = NearestImages(images, FLAT, "", 3)(x)
    for row, own in zip(x, found, strict=True):
        distances = (real - row).square().sum((1, 2, 3)).sqrt().sort().values
        torch.testing.assert_close(own, -distances[:3].mean())
    (slope,) = torch.autograd.grad(found.sum(), x)
    assert bool(slope.isfinite().all()) and bool((slope.flatten(1).norm(dim=1) > 0.1).all())
    copies = real[:4].clone().requires_grad_()
    found = NearestImages(images, FLAT, "", 1)(copies)
    assert found.tolist() == [0, 0, 0, 0]
    assert bool(torch.autograd.grad(found.sum(), copies)[0].isfinite().all())


def test_features_of_near_images_are_averaged_over_positions():
    network = classifier()
    images = Digits(limit=5, labels=False)
    reward = NearestImages(images, network, "body", 5)
    x = torch.randn(2, *tiny.SHAPE)
    own = network.body(x).flatten(2).mean(2)
    real = (
        network.body(torch.stack([images[i]["x1"] for i in range(5)]).float() / 127.5 - 1).flatten(2).mean(2)
    )
    torch.testing.assert_close(reward(x), -(own[:, None] - real).norm(dim=2).mean(1))
    with pytest.raises(
        FlowlitError, match="NearestImages: k is 6, but there are 5 images; expected k of them"
    ):
        NearestImages(images, network, "body", 6)(x)


def test_noise_is_a_larger_file_than_a_plane():
    images = torch.stack([torch.zeros(3, 32, 32), torch.rand(3, 32, 32)])
    plane, noise = JPEGSize()(images).tolist()
    assert noise < plane < 0
    assert JPEGSize(10)(images)[1] > noise
    assert not JPEGSize()(images.requires_grad_()).requires_grad
    with pytest.raises(FlowlitError, match="JPEGSize: quality is 101; expected a whole number from 1 to 100"):
        JPEGSize(101)


class First(Reward):
    """The first pixel."""

    def forward(self, x, cond={}):
        return x[:, 0, 0, 0]


def images(*firsts):
    x = torch.zeros(len(firsts), 1, 2, 2, dtype=torch.float64)
    x[:, 0, 0, 0] = torch.tensor(firsts, dtype=torch.float64)
    return x


def test_a_gradient_needs_a_reward_that_has_one():
    with pytest.raises(FlowlitError, match="RewardGradient: JPEGSize has no gradient; expected one that has"):
        RewardGradient(JPEGSize())


def test_the_loss_is_minus_the_reward_over_the_temperature():
    x = images(1.0, 4.0).requires_grad_()
    losses = RewardGradient(First(), 0.5).sample_loss(x, nn.Identity(), Pair(x.detach(), x.detach()))
    assert float(losses["loss"].detach()) == -5.0 and float(losses["reward"]) == 2.5
    (slope,) = torch.autograd.grad(losses["loss"], x)
    torch.testing.assert_close(slope, images(-1.0, -1.0))
    assert not RewardGradient(First()).trains_critic


def test_it_needs_no_critic_beside_an_anchor():
    network = tiny.Affine()
    torch.manual_seed(0)
    pair = Pair(*torch.randn(2, 3, *tiny.SHAPE))
    found = Combined({"anchor": Distillation(), "reward": RewardGradient(Brightness(0.2))})(network, pair)
    x = pair.x0 + network(pair.x0, torch.zeros(3))
    torch.testing.assert_close(found["reward"], -Brightness(0.2)(x).mean())
    torch.testing.assert_close(found["loss"], found["reward"] + found["anchor"])


def test_weights_are_normalised_clipped_and_without_a_graph():
    x = images(-1.0, 1.0).requires_grad_()
    expected = torch.tensor([math.exp(-0.5), math.exp(0.5)], dtype=torch.float64)
    weights = RewardWeight(First(), 0.5)(x)
    torch.testing.assert_close(weights, expected / expected.mean())
    assert not weights.requires_grad
    clipped = torch.tensor([math.exp(-2.0), 5.0], dtype=torch.float64)
    torch.testing.assert_close(RewardWeight(First(), 2.0)(x), clipped / clipped.mean())
    torch.testing.assert_close(RewardWeight(First(), 0.5)(100 * x + 7), weights)  # of any scale


@pytest.mark.parametrize("value", [0.0, 0.1, -1 / 3, 1e8, 1e-20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rewards_weigh_one_exactly(value, dtype):
    for rows in (1, 3, 7):
        weights = RewardWeight(First())(images(*[value] * rows).to(dtype))
        assert weights.tolist() == [1.0] * rows and weights.dtype == dtype
