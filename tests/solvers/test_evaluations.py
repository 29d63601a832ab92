"""Steps of a solver from a number of evaluations."""

from dataclasses import dataclass

import pytest
import torch
from tools import LinearField

from flowlit.errors import FlowlitError
from flowlit.solvers import (
    RK4,
    RK45,
    SDE,
    Adams,
    AdaptiveDPMSolver,
    DPMSolver,
    EDMHeun,
    Euler,
    Heun,
    Jumps,
    OneStep,
    ReNoise,
    RhoRK,
    SinglestepDPMSolver,
    UniPC,
)
from flowlit.solvers.evaluations import with_evaluations
from flowlit.solvers.grids import Given
from flowlit.types import Solution, Solver

CASES = [
    (UniPC(3), 5),
    (DPMSolver(3, mean=[0.0]), 4),
    (SinglestepDPMSolver(3), 7),
    (RhoRK(3), 11),
    (Jumps(), 3),
    (Euler(1), 7),
    (Heun(5), 6),
    (RK4(1), 8),
    (Adams(1), 5),
    (EDMHeun(), 9),
    (SDE(9), 3),
    (ReNoise(9), 2),
]


@dataclass
class Thrice(Solver):
    """A solver of one's own: three evaluations a step, and one more at the end."""

    steps: int

    def __call__(self, velocity, x0, cond={}, *, observe=None, reverse=False):
        each = getattr(velocity, "evaluations", 1)
        return Solution(x0, torch.full((len(x0),), (3 * self.steps + 1) * each))


@pytest.mark.parametrize(("solver", "nfe"), [*CASES, (Thrice(1), 13)], ids=repr)
@pytest.mark.parametrize("each", [1, 2])
def test_a_solver_takes_as_many_evaluations_as_are_asked_for(solver, nfe, each):
    chosen = with_evaluations(solver, nfe * each, each, (1, 8, 8))
    assert type(chosen) is type(solver)
    assert int(chosen(LinearField(), torch.zeros(1, 1, 8, 8)).nfe[0]) == nfe


@pytest.mark.parametrize(
    ("solver", "nfe", "each", "expected"),
    [
        (Heun(1), 5, 1, "Heun cannot have; its numbers next to it are 4 and 6"),
        (Heun(1), 1, 1, "are 2 and 4"),
        (EDMHeun(), 2, 1, "are 1 and 3"),
        (Adams(1), 1, 1, "are 2 and 3"),
        (Euler(1), 3, 2, "are 2 and 4"),
        (RK45(), 20, 1, "RK45 has no steps to choose"),
        (AdaptiveDPMSolver(), 20, 1, "AdaptiveDPMSolver has no steps to choose"),
        (RhoRK(3), 4, 1, "are 2 and 5"),
        (OneStep(), 2, 1, "OneStep has no steps to choose"),
        (Euler(2, grid=Given([0, 0.5, 1])), 3, 1, "3 times make 2 steps"),
        (Euler(1), 10**7, 1, "10,000 at most"),
    ],
    ids=repr,
)
def test_what_a_solver_cannot_have_is_refused_with_what_it_can(solver, nfe, each, expected):
    with pytest.raises(FlowlitError, match=expected):
        with_evaluations(solver, nfe, each)


def test_other_settings_stay():
    assert with_evaluations(OneStep(0.5), 2, 2) == OneStep(0.5)
    assert with_evaluations(Euler(9, rho=2.0), 4) == Euler(4, rho=2.0)
    assert with_evaluations(Euler(2, grid=Given([0, 0.5, 1])), 2).grid == Given([0, 0.5, 1])
