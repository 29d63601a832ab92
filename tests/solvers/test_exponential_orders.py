"""Orders of convergence of the exponential integrators, on the exact flow of a mixture of Gaussians."""

from __future__ import annotations

from functools import partial

import pytest
from mixtures import SMOOTH, order, uniform_log_snr

from flowlit.solvers import DEIS, DPMSolver, UniPC
from flowlit.solvers.exponential_multistep import StepRule, multistep
from flowlit.solvers.exponential_singlestep import follow, march_evaluated, rho_runge_kutta
from flowlit.solvers.grids import Sine

INNER = {"begin": 0.013, "end": 0.998}
BOTH = ["data", "noise"]


def reaches(found, wanted):
    """At least the order, and no other one by chance: higher ones are seen before the asymptote."""
    return wanted - 0.5 < found < wanted + 1.2


def of_rule(rule):
    return order(lambda n, x: multistep(SMOOTH, x, uniform_log_snr(n), [rule] * n).x1, **INNER)


def of_steps(num, **others):
    def solve(n, x):
        return follow(SMOOTH, x, uniform_log_snr(n), [num] * n, **others).x1

    return order(solve, **INNER, steps=(16, 24, 32, 48))


def on_sine(make, reverse=False):
    ends = {"begin": 1.0, "end": 0.0} if reverse else {}
    return order(lambda n, x: make(n, grid=Sine())(SMOOTH, x, reverse=reverse).x1, **ends)


@pytest.mark.slow
@pytest.mark.parametrize("prediction", BOTH)
@pytest.mark.parametrize("wanted", [2, 3])
def test_multistep_dpm_solver(prediction, wanted):
    assert reaches(of_rule(StepRule(wanted, prediction, form="midpoint")), wanted)
    assert reaches(on_sine(partial(DPMSolver, order=wanted, prediction=prediction)), wanted)
    assert reaches(on_sine(partial(DPMSolver, order=wanted, prediction=prediction), reverse=True), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("prediction", BOTH)
def test_without_the_factor_2_the_third_order_is_lost(prediction):
    assert of_rule(StepRule(3, prediction, form="published")) < 2.4


@pytest.mark.slow
@pytest.mark.parametrize("prediction", BOTH)
@pytest.mark.parametrize("kind", ["midpoint", "taylor"])
@pytest.mark.parametrize("wanted", [2, 3])
def test_singlestep_dpm_solver(prediction, wanted, kind):
    assert reaches(of_steps(wanted, prediction=prediction, kind=kind), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("prediction", BOTH)
@pytest.mark.parametrize("thirds", [(0.25, 0.5), (0.5, 0.8)])
def test_without_its_second_node_at_two_thirds_the_third_order_is_lost(prediction, thirds):
    assert of_steps(3, prediction=prediction, thirds=thirds) < 2.4


@pytest.mark.slow
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_is_one_order_better_than_its_predictor(order):
    wanted = order + 1
    assert reaches(of_rule(StepRule(order, "data", form="midpoint", corrector="midpoint")), wanted - 0.3)
    if order > 1:
        assert reaches(on_sine(partial(UniPC, order=order)), wanted - 0.3)


@pytest.mark.slow
@pytest.mark.parametrize("prediction", ["velocity", *BOTH])
@pytest.mark.parametrize("degree", [1, 2, 3])
def test_adams_bashforth_in_time(prediction, degree):
    assert reaches(of_rule(StepRule(degree + 1, prediction, "time")), degree + 1)
    assert reaches(on_sine(partial(DEIS, order=degree, prediction=prediction)), degree + 1)


@pytest.mark.slow
@pytest.mark.parametrize("degree", [1, 2, 3])
def test_adams_bashforth_in_noise_over_signal(degree):
    assert reaches(of_rule(StepRule(degree + 1, "noise", "rho")), degree + 0.8)


@pytest.mark.slow
@pytest.mark.parametrize("prediction", BOTH)
@pytest.mark.parametrize("wanted", [2, 3, 4])
def test_runge_kutta_in_noise_over_signal(prediction, wanted):
    rule = partial(rho_runge_kutta, prediction=prediction)
    found = order(
        lambda n, x: march_evaluated(SMOOTH, x, uniform_log_snr(n), [wanted] * n, {}, rule, prediction).x1,
        **INNER,
    )
    assert reaches(found, wanted)


def test_the_third_order_needs_its_factor_2_on_a_few_steps():
    """The same, quickly: the two that need corrections, with and without them."""
    few = {"steps": (24, 36, 54), **INNER}

    def steps(rule):
        return order(lambda n, x: multistep(SMOOTH, x, uniform_log_snr(n), [rule] * n).x1, **few)

    assert steps(StepRule(3, "data")) > 2.6 > steps(StepRule(3, "data", form="published"))
