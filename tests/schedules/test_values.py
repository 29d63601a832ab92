import math

import pytest
from learning_rates import rates

from flowlit.errors import FlowlitError
from flowlit.schedules import Constant, Cosine, Exponential, Linear, Piecewise

W = 1000


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (Constant(0.4), [0.4, 0.4, 0.4, 0.4]),
        (Linear(W), [1, 0.5, 0, 0]),
        (Cosine(W), [1, 0.5, 0, 0]),
        (Exponential(W), [1, math.exp(-0.5), math.exp(-1), math.exp(-2)]),
        (Piecewise([(0, 1.0), (W, 0.0)]), [1, 0.5, 0, 0]),
        (Linear(W, start=0.2, end=0.6), [0.2, 0.4, 0.6, 0.6]),
        (Cosine(W, start=0.2, end=0.6), [0.2, 0.4, 0.6, 0.6]),
    ],
)
def test_values_at_the_start_the_middle_the_horizon_and_twice_the_horizon(schedule, values):
    assert [schedule(k) for k in (0, W // 2, W, 2 * W)] == pytest.approx(values)


def test_cosine_is_not_linear():
    assert Cosine(W)(W // 4) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)


def test_piecewise_holds_before_its_first_and_after_its_last_point():
    schedule = Piecewise([(10, 0.8), (20, 0.2)])
    assert [schedule(k) for k in (0, 10, 15, 20, 99)] == pytest.approx([0.8, 0.8, 0.5, 0.2, 0.2])


@pytest.mark.parametrize("points", [[], [(5, 1.0), (5, 0.0)], [(5, 1.0), (1, 0.0)]])
def test_piecewise_refuses_steps_that_do_not_increase(points):
    with pytest.raises(FlowlitError, match="increasing"):
        Piecewise(points)


def test_warm_up_rises_to_the_full_rate_and_stays():
    assert rates(4, None, 7) == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0])


def test_warm_up_with_a_total_fades_to_zero():
    found = rates(1, 10, 12)
    assert found[0] == pytest.approx(2.0)
    assert found[5] == pytest.approx(1.0)
    assert found[10:] == pytest.approx([0.0, 0.0])


def test_a_wait_comes_before_the_warm_up():
    assert rates(2, None, 5, wait=2) == pytest.approx([0.0, 0.0, 1.0, 2.0, 2.0])
    assert rates(0, 4, 5, wait=2) == pytest.approx([0.0, 0.0, 1.0, 0.2929, 0.0], abs=1e-4)


def test_no_warm_up_starts_with_the_full_rate():
    assert rates(0, None, 2) == pytest.approx([2.0, 2.0])


@pytest.mark.parametrize(
    "make", [lambda: Linear(steps=0), lambda: Cosine(steps=-1), lambda: Exponential(scale=0)]
)
def test_horizon_must_be_positive(make):
    with pytest.raises(FlowlitError, match="number > 0"):
        make()
