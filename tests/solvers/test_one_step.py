"""One step of an average velocity."""

import pytest
import torch
from exact_flows import curved, start

from flowlit.errors import FlowlitError
from flowlit.networks.checkpoints.spec import build, spec
from flowlit.solvers import Euler, OneStep
from flowlit.types import Solver


def test_the_velocity_at_the_knobs_time_is_added_whole():
    x0 = start()
    solution = OneStep(0.25)(curved, x0)
    torch.testing.assert_close(solution.x1, x0 + 1.25 * x0.sin())
    assert solution.nfe.tolist() == [1] * 4


def test_at_0_it_is_eulers_single_step_and_1_is_the_default():
    x0 = start()
    assert torch.equal(OneStep(0)(curved, x0).x1, Euler(1)(curved, x0).x1)
    assert OneStep() == OneStep(1.0) and OneStep.takes_average


def test_conditions_and_observers_are_served():
    seen = []
    x0, cond = start(), {"image": start()}

    def velocity(x, t, cond):
        return cond["image"] * t[:, None, None, None]

    solution = OneStep(0.5)(velocity, x0, cond, observe=lambda *each: seen.append(each))
    ((t, x, v),) = seen
    assert t.tolist() == [0] * 4 and torch.equal(x, x0) and torch.equal(solution.x1, x + v)


def test_it_describes_itself_and_does_not_run_in_reverse():
    assert build(spec(OneStep(0.7)), Solver) == OneStep(0.7)
    with pytest.raises(FlowlitError, match="reverse"):
        OneStep()(curved, start(), reverse=True)


@pytest.mark.parametrize("t", [-0.1, 1.1, float("nan")])
def test_a_knob_beyond_its_range_is_refused(t):
    with pytest.raises(FlowlitError, match="OneStep"):
        OneStep(t)
