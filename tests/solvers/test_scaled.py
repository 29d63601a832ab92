"""Euler's rule with numbers of each step."""

import pytest
import torch
from tools import LinearField

from flowlit.errors import FlowlitError
from flowlit.solvers import Euler, ScaledEuler


def test_without_numbers_it_is_euler():
    x0 = torch.randn(3, 1, 2, 2)
    field = LinearField().requires_grad_(False)
    for steps in (1, 4):
        expected = Euler(steps)(field, x0).x1
        torch.testing.assert_close(ScaledEuler(steps)(field, x0).x1, expected)
        torch.testing.assert_close(ScaledEuler(steps, scales=[[1, 1]] * steps)(field, x0).x1, expected)


def test_each_step_has_its_own_numbers():
    x0 = torch.randn(3, 1, 2, 2)
    field = LinearField().requires_grad_(False)
    solver = ScaledEuler(2, scales=[[0.9, 1.2], [1.1, 0.8]])
    middle = 0.9 * x0 + 0.5 * 1.2 * field(x0, torch.zeros(3))
    expected = 1.1 * middle + 0.5 * 0.8 * field(middle, torch.full((3,), 0.5))
    for _ in range(2):  # each call begins with the first step
        solution = solver(field, x0)
        torch.testing.assert_close(solution.x1, expected)
    assert solution.nfe.tolist() == [2, 2, 2]
    with pytest.raises(FlowlitError, match="ScaledEuler goes from noise to images alone"):
        solver(field, x0, reverse=True)


@pytest.mark.parametrize("scales", [[[1, 1]], [[1], [1]], [[1, 1], [1, 1, 1]]])
def test_numbers_that_fit_no_step_are_refused(scales):
    with pytest.raises(FlowlitError, match=r"expected \[a, b\] for each of 2 steps"):
        ScaledEuler(2, scales=scales)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(value):
    with pytest.raises(FlowlitError, match="each a finite number"):
        ScaledEuler(2, scales=[[1, 1], [1, value]])
