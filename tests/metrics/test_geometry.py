"""Straightness, against fields whose flow is known."""

import math

import pytest
import torch
from tools import straight

from flowlit.metrics.geometry import straightness
from flowlit.networks import EmpiricalFlow


def rotation(x, t, cond={}):
    """Turn the plane by one and a half radians in unit time."""
    return 1.5 * torch.stack([-x[:, 1], x[:, 0]], 1)


def test_a_straight_field_has_straightness_zero():
    x0 = torch.randn(4, 3, 2, 2)
    assert straightness(straight, x0).max() < 1e-6
    assert straightness(lambda x, t, cond: torch.full_like(x, 0.3), x0).max() < 1e-9


def test_straightness_of_a_rotation():
    """|v|² = ω² r² all the way, and |x1 - x0|² = 2 (1 - cos ω) r²."""
    x0 = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]])
    expected = (1.5**2 - 2 * (1 - math.cos(1.5))) * x0.square().sum(1)
    assert straightness(rotation, x0, steps=4000).tolist() == pytest.approx(expected.tolist(), rel=2e-3)


def test_straightness_is_its_definition_on_the_simulated_path():
    x0, steps = torch.randn(3, 2, dtype=torch.float64), 10
    x, velocities = x0, []
    for _ in range(steps):
        velocities.append(rotation(x, None))
        x = x + velocities[-1] / steps
    expected = sum((x - x0 - v).square().sum(1) for v in velocities) / steps
    assert torch.allclose(straightness(rotation, x0, steps=steps), expected)


def test_straightness_uses_conditions_and_sums_over_pixels():
    x0, label = torch.randn(4, 1, 4, 4), torch.arange(4)

    def field(x, t, cond):
        return cond["label"][:, None, None, None] * torch.ones_like(x) * t[:, None, None, None]

    found = straightness(field, x0, {"label": label}, steps=1000)
    assert found.tolist() == pytest.approx((16 * label**2 / 12).tolist(), rel=0.01)


def test_the_flow_of_many_images_is_not_straight():
    assert (
        straightness(EmpiricalFlow(torch.randn(50, 1, 2, 2)), torch.randn(8, 1, 2, 2), steps=50).min() > 0.01
    )
