"""YONOS-SR: a guide of a smaller factor changes the variance of the target, and not the minimum."""

import pytest
import torch
import torch.nn.functional as F
from restoration import DIM, SHAPE, Restoration, sigma_points
from torch import nn

from flowlit.errors import FlowlitError
from flowlit.objectives import RectifiedFlow, ScaleDistillation, VelocityMatching, scale_distillation_loss
from flowlit.objectives.distances import SquaredError
from flowlit.objectives.times import Fixed
from flowlit.objectives.weights import Remaining
from flowlit.paths import interpolate
from flowlit.types import Pair

TIMES = Fixed(0.4)


class Linear(nn.Module):
    """v = W (x, image, 1), fitted by least squares to x1 - x0 over all pairs there are."""

    def __init__(self, pair, image):
        super().__init__()
        x_t = interpolate(pair.x0, pair.x1, TIMES(len(pair.x0)))
        weight = torch.linalg.pinv(self.features(x_t, image)) @ (pair.x1 - pair.x0).flatten(1)
        self.weight = nn.Parameter(weight)
        self.seen = []

    def features(self, x, image):
        return torch.cat([x.flatten(1), image.flatten(1), torch.ones_like(x.flatten(1)[:, :1])], 1)

    def forward(self, x, t, cond={}):
        self.seen.append(cond)
        return (self.features(x, cond["image"]) @ self.weight).reshape(x.shape)


def pairs(nested):
    """Every moment of (x, c_2, c_4), c_4 made of c_2, or of x with noise of its own; x0 is N(0, I)."""
    problem = Restoration(seed=4)
    points = sigma_points(DIM + 4 + DIM + 1)
    x1, image = problem.draw(points[:, :-1])[1:]
    x0 = points[:, DIM + 4 : -1].reshape(-1, *SHAPE)
    noise = 0.02 * points[:, -1].reshape(-1, 1, 1, 1)
    small = F.avg_pool2d(image["image"], 4) if nested else F.avg_pool2d(x1, 4) + noise
    coarse = small.expand(-1, *SHAPE)
    return Pair(x0, x1, {"image": coarse, "guide_image": image["image"]})


def gradient(objective, student, pair):
    (found,) = torch.autograd.grad(objective(student, pair)["loss"], [student.weight])
    return float(found.abs().max())


@pytest.mark.parametrize("nested", [True, False], ids=["nested", "independent"])
def test_the_minimum_is_that_of_direct_regression_if_the_factors_are_nested(nested):
    pair = pairs(nested)
    guide = Linear(pair, pair.cond["guide_image"])
    student = Linear(pair, pair.cond["image"])
    plain = pair._replace(cond={"image": pair.cond["image"]})
    direct = RectifiedFlow(times=TIMES, weight=Remaining())
    distilled = ScaleDistillation(guide, times=TIMES)
    assert gradient(direct, student, plain) < 1e-12
    found = gradient(distilled, student, pair)
    assert found < 1e-12 if nested else found > 1e-7
    with torch.no_grad():
        assert distilled(student, pair)["loss"] < 0.8 * direct(student, plain)["loss"]


def test_guide_and_student_see_their_own_image_at_the_same_point():
    pair = pairs(True)._replace(cond={**pairs(True).cond, "label": torch.arange(74)})
    guide, student = Linear(pair, pair.cond["guide_image"]), Linear(pair, pair.cond["image"])
    t = TIMES(74)
    found = scale_distillation_loss(student, guide, pair, t, distance=SquaredError())
    assert set(student.seen[0]) == set(guide.seen[0]) == {"image", "label"}
    assert guide.seen[0]["image"] is pair.cond["guide_image"]
    x_t = interpolate(pair.x0, pair.x1, t)
    target = guide(x_t, t, {"image": pair.cond["guide_image"]})
    expected = (student(x_t, t, pair.cond) - target).square().flatten(1).mean(1)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert guide.weight.grad is None and student.weight.grad is not None


def test_with_one_image_for_both_it_is_velocity_matching_of_predicted_images():
    pair = pairs(True)
    image = pair.cond["image"]
    guide, student = Linear(pair, image), Linear(pair, image)
    student.weight.data *= 1.1
    both = pair._replace(cond={"image": image, "guide_image": image})
    matched = VelocityMatching(guide, times=TIMES, weight=Remaining())
    found = ScaleDistillation(guide, times=TIMES)(student, both)["loss"]
    torch.testing.assert_close(found, matched(student, pair._replace(cond={"image": image}))["loss"])


def test_the_guides_image_is_none_of_the_students_conditions():
    pair = pairs(True)
    objective = ScaleDistillation(Linear(pair, pair.cond["guide_image"]))
    assert set(objective.conditions(pair.cond)) == {"image"}
    assert not list(objective.parameters())
    for cond in ({}, {"image": pair.x0}, {"guide_image": pair.x0}):
        with pytest.raises(FlowlitError, match="expected cond\\['image'\\] and cond\\['guide_image'\\]"):
            objective(Linear(pair, pair.x0), pair._replace(cond=cond))
