"""Regression onto a guide's velocity on noised data."""

import pytest
import tiny
import torch

from flowlit.objectives import RectifiedFlow, VelocityMatching, velocity_matching_loss
from flowlit.objectives.distances import PseudoHuber, SquaredError
from flowlit.objectives.times import Fixed
from flowlit.objectives.weights import Powers
from flowlit.types import Pair


def networks():
    torch.manual_seed(0)
    return tiny.Affine(), tiny.Affine()


def pair():
    torch.manual_seed(1)
    return Pair(*torch.randn(2, 5, *tiny.SHAPE))


@pytest.mark.parametrize("distance", [SquaredError(), PseudoHuber()])
def test_the_target_is_the_guides_velocity_at_the_same_point(distance):
    student, guide = networks()
    t = torch.rand(5)
    found = velocity_matching_loss(student, guide, pair(), t, distance=distance)
    x_t = torch.lerp(*pair()[:2], t.reshape(-1, 1, 1, 1))
    torch.testing.assert_close(found, distance(student(x_t, t), guide(x_t, t)))
    found.sum().backward()
    assert all(p.grad is None for p in guide.parameters())
    assert all(p.grad is not None for p in student.parameters())


def test_a_perfect_student_has_no_loss_unlike_in_rectified_flow():
    student, _ = networks()
    objective = VelocityMatching(student)
    assert float(objective(student, pair())["loss"]) == 0.0
    assert float(RectifiedFlow()(student, pair())["loss"].detach()) > 0.5


def test_times_weights_and_observers_are_those_of_rectified_flow():
    student, guide = networks()
    objective = VelocityMatching(guide, times=Fixed(0.25), weight=Powers(1, 0))
    seen = []
    objective.observer = lambda t, loss: seen.append((t, loss))
    loss = objective(student, pair())["loss"]
    assert seen[0][0].tolist() == [0.25] * 5
    torch.testing.assert_close(loss.detach(), 0.25 * seen[0][1].mean())
    assert not list(objective.parameters()), "the guide is hidden"
