"""Velocities of another shape, or not finite, are refused by every solver and objective."""

import math

import pytest
import torch
from tools import tiny_unet

from flowlit._support.batch_invariance import BatchInvariant
from flowlit._support.velocities import evaluate
from flowlit.data import Pixels
from flowlit.errors import FlowlitError, NotFinite
from flowlit.frozen import Frozen
from flowlit.generators import Generator
from flowlit.metrics.cost import count_flops
from flowlit.objectives import FlowGuided, RectifiedFlow
from flowlit.paths import anneal
from flowlit.solvers import (
    DEIS,
    RK2,
    RK4,
    RK45,
    SDE,
    Adams,
    AdaptiveDPMSolver,
    DPMSolver,
    EDMHeun,
    Euler,
    Heun,
    Midpoint,
    Ralston,
    ReNoise,
    RhoRK,
    SinglestepDPMSolver,
    SolverSchedule,
    UniPC,
)
from flowlit.types import Objective, Pair

SOLVERS = [
    Euler(3),
    Heun(2),
    Midpoint(2),
    Ralston(2),
    RK2(2, r=0.3),
    RK4(2),
    RK45(),
    Adams(3),
    SDE(3),
    ReNoise(3),
    EDMHeun(4),
    DPMSolver(4),
    SinglestepDPMSolver(6),
    AdaptiveDPMSolver(),
    UniPC(4),
    DEIS(4),
    RhoRK(4),
    SolverSchedule([0, 0.3, 0.6, 1]),
]
X = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def kind(solver):
    return type(solver).__name__


class Broken:
    """A velocity of -x that is not finite for one sample, in one of its evaluations, whatever x is later."""

    def __init__(self, call, value):
        self.call = call
        self.value = value
        self.calls = 0

    def __call__(self, x, t, cond={}):
        self.calls += 1
        v = torch.nan_to_num(-x, posinf=0.0, neginf=0.0)
        if self.calls == self.call:
            v[min(2, len(v) - 1)] = self.value
        return v


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("solver", SOLVERS, ids=kind)
def test_a_velocity_that_is_not_finite_once_is_refused(solver, value):
    """Also where the network hides it from later evaluations."""
    evaluations = Broken(0, value)
    solver(evaluations, X)
    for call in range(1, min(evaluations.calls, 10) + 1):
        with pytest.raises(NotFinite, match="not finite"):
            solver(Broken(call, value), X)


@pytest.mark.parametrize("solver", SOLVERS, ids=kind)
def test_a_velocity_that_would_be_broadcast_is_refused(solver):
    with pytest.raises(FlowlitError, match=r"returned \(5, 1, 1, 1\) of float32; expected \(5, 1, 4, 4\)"):
        solver(lambda x, t, cond={}: -x.mean((1, 2, 3), keepdim=True), X)


def test_the_number_of_samples_is_told():
    with pytest.raises(NotFinite, match="2 of 5 generated images are not finite"):
        Euler(2)(lambda x, t, cond={}: torch.where(torch.arange(5)[:, None, None, None] > 2, torch.nan, x), X)


def test_the_network_is_named_within_its_wrappers():
    class TwoChannels(torch.nn.Module):
        def forward(self, x, t, cond={}):
            return torch.cat([x, x], 1)

    for velocity in (TwoChannels(), Frozen(TwoChannels()), BatchInvariant(Frozen(TwoChannels()))):
        with pytest.raises(FlowlitError, match="the velocity TwoChannels returned"):
            evaluate(velocity, X, torch.zeros(5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_real_numbers_of_any_precision_are_taken(dtype):
    assert Euler(1)(lambda x, t, cond={}: -x.to(dtype), X).x1.dtype == torch.float32


def test_a_guide_is_looked_at_like_the_student():
    objective = FlowGuided(torch.nn.Flatten(2))
    objective.guide = lambda x, t, cond={}: x[:1]
    with pytest.raises(FlowlitError, match=r"returned \(1, 1, 4, 4\)"):
        objective(lambda x, t, cond={}: x, Pair(X, X))


def test_a_network_of_two_outputs_is_one_error():
    class Two(torch.nn.Module):
        shape = (1, 4, 4)

        def forward(self, x, t, cond={}):
            return x, t

    with pytest.raises(FlowlitError, match="the velocity Two returned a tuple"):
        Generator(Two(), Euler(1), Pixels(), (1, 4, 4)).sample(2)
    with pytest.raises(FlowlitError, match="the velocity Two returned a tuple"):
        RectifiedFlow()(Two(), Pair(X, X))


def test_operations_of_an_objective_with_a_solver_are_counted():
    class Rolled(Objective):
        def forward(self, velocity, pair):
            return {"loss": Euler(2)(velocity, pair.x0).x1.square().mean()}

    x = torch.zeros(2, 1, 8, 8)
    assert (
        count_flops(lambda objective, network: objective(network, Pair(x, x))["loss"], Rolled(), tiny_unet())
        > 0
    )


@pytest.mark.parametrize("beta", [-0.1, 1.5, math.nan])
def test_a_share_of_noise_beyond_one_is_refused(beta):
    with pytest.raises(FlowlitError, match=r"beta is .*in \[0, 1\]"):
        anneal(X, X, beta)
