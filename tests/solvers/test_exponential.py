"""Exponential integrators on the straight path: their weights, equalities, ends, and what solvers promise."""

from __future__ import annotations

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from exact_flows import by_rate, curved, start
from matrix import few
from mixtures import SMOOTH, rmse
from scipy.integrate import quad
from tools import CallCounter, straight

from flowlit.errors import FlowlitError
from flowlit.networks.checkpoints.spec import build, spec
from flowlit.paths import expand
from flowlit.solvers import (
    DEIS,
    RK45,
    Adams,
    AdaptiveDPMSolver,
    DPMSolver,
    EDMHeun,
    Euler,
    RhoRK,
    SinglestepDPMSolver,
    SolverSchedule,
    UniPC,
    sigma_grid,
    time_grid,
)
from flowlit.solvers.exponential import exponential_weights, linear_part, log_snr
from flowlit.solvers.exponential_multistep import StepRule, multistep
from flowlit.solvers.grids import Given, Karras, LogSNR, Power, Quadratic, Shifted, Sine
from flowlit.types import Solver

X = SMOOTH.start()
TIMES = [0.0, 0.1, 0.25, 0.45, 0.7, 0.9, 1.0]


def schedule(steps, **decisions):
    return SolverSchedule(time_grid(steps), **decisions)


MULTISTEP = [
    *(
        lambda n, o=o, p=p, k=k: DPMSolver(n, order=o, prediction=p, kind=k)
        for o, p, k in itertools.product((1, 2, 3), ("data", "noise"), ("midpoint", "taylor"))
    ),
    lambda n: DPMSolver(n, published=True),
    *(
        lambda n, o=o, p=p, b=b: UniPC(n, order=o, prediction=p, b=b)
        for o, p, b in itertools.product((1, 2, 3), ("data", "noise"), ("1", "2", "exact"))
    ),
    *(
        lambda n, o=o, p=p: DEIS(n, order=o, prediction=p)
        for o, p in itertools.product((0, 1, 2, 3), ("velocity", "data", "noise"))
    ),
    *(
        lambda n, o=o, p=p: DEIS(n, order=o, prediction=p, variable="rho")
        for o, p in itertools.product((0, 1, 2, 3), ("data", "noise"))
    ),
    lambda n: schedule(n, orders=3, predictions="velocity", correctors=True),
    lambda n: schedule(n, orders=4, predictions="noise", forms="b1", scales=0.1),
]
OTHERS = [
    *(
        lambda n, o=o, p=p, k=k: SinglestepDPMSolver(n, o, p, k)
        for o, p, k in itertools.product((2, 3), ("data", "noise"), ("midpoint", "taylor"))
    ),
    *(lambda n, o=o, p=p: RhoRK(n, order=o, prediction=p) for o in (2, 3, 4) for p in ("data", "noise")),
]
SHOWN = [
    DPMSolver(6),
    UniPC(6, b="exact"),
    DEIS(6, order=3),
    DEIS(6, variable="rho", prediction="noise"),
    RhoRK(6),
    SinglestepDPMSolver(6),
    SolverSchedule(TIMES, orders=3, predictions="noise"),
    AdaptiveDPMSolver(),
]


def name(solver):
    return repr(solver(6) if callable(solver) and not isinstance(solver, Solver) else solver)


# weights


@pytest.mark.parametrize(("s", "t"), few([(0.3, 0.4), (0.9, 0.1), (0.02, 0.7), (0.3, 0.31), (0.01, 0.99)], 2))
@pytest.mark.parametrize("variable", ["log_snr", "time", "rho"])
@pytest.mark.parametrize("prediction", ["data", "noise"])
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_weights_integrate_polynomials_of_their_variable_exactly(prediction, variable, s, t, degree):
    def place(tau):
        return {"log_snr": log_snr(tau), "time": tau, "rho": tau / (1 - tau)}[variable]

    def in_rho(tau):
        return (1 - tau) / tau if variable == "rho" and prediction == "noise" else place(tau)

    def kernel(tau):
        return (1 - t) / (1 - tau) ** 2 if prediction == "data" else -t / tau**2

    nodes = [0.5 * s, 0.2 + 0.6 * s, min(1.3 * s, 0.95)][:degree]
    weights = exponential_weights(prediction, variable, nodes, s, t)
    found = sum(w * in_rho(node) ** degree for w, node in zip(weights, [s, *nodes], strict=True))
    exact = quad(lambda tau: kernel(tau) * in_rho(tau) ** degree, s, t, epsabs=0, epsrel=1e-11)[0]
    assert found == pytest.approx(exact, rel=1e-6)


def test_weights_of_the_sheet_by_hand():
    s, t, a = 0.3, 0.4, 0.2
    h, back = log_snr(t) - log_snr(s), log_snr(s) - log_snr(a)
    one = (t - s) / (1 - s)
    midpoint = exponential_weights("data", "log_snr", [a], s, t, "midpoint")
    assert midpoint == pytest.approx([one + one * h / back / 2, -one * h / back / 2], rel=1e-12)
    taylor = exponential_weights("noise", "log_snr", [a], s, t)
    second = ((t - s) / (s * h) - (1 - t)) * h / back
    assert taylor == pytest.approx([-(t - s) / s - second, second], rel=1e-12)
    assert linear_part("data", s, t) == pytest.approx(0.6 / 0.7)


@pytest.mark.parametrize("s", [1e-12, 0.5, 1 - 1e-9])
@pytest.mark.parametrize("step", [1e-5, 1e-3, 0.3])
def test_weights_lose_no_digits_in_small_steps_and_near_the_ends(s, step):
    """Of a constant they are the exact integral; of a line, half a step more or less for a small one."""
    t = s + step * (1 - s) * s
    for variable in ("log_snr", "time", "rho"):
        weights = exponential_weights("data", variable, [s * 0.9], s, t)
        assert sum(weights) == pytest.approx((t - s) / (1 - s), rel=1e-4)
        assert all(map(math.isfinite, weights))


# equalities


FIRST = [make for make in MULTISTEP if getattr(make(4), "order", 9) == (0 if "DEIS" in name(make) else 1)]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("make", FIRST, ids=name)
def test_the_first_order_of_every_family_is_eulers(make, reverse):
    solver = make(6)
    if getattr(solver, "corrector", False):
        solver.corrector = False
    assert torch.allclose(
        solver(SMOOTH, X, reverse=reverse).x1, Euler(6)(SMOOTH, X, reverse=reverse).x1, rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("make", few([*MULTISTEP, *OTHERS], 14), ids=name)
def test_a_velocity_that_does_not_change_is_followed_exactly(make):
    v = start(4, seed=3)
    for steps in (1, 2, 3, 7):
        for reverse in (False, True):
            end = make(steps)(lambda x, t, cond: v, start(4), reverse=reverse).x1
            assert torch.allclose(end, start(4) + (-v if reverse else v), rtol=0, atol=1e-12)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_adaptive_one_follows_it_exactly_too(reverse):
    v = start(1, seed=3)
    kept = v.clone()
    for order in (2, 3):
        end = AdaptiveDPMSolver(order)(lambda x, t, cond: v.expand_as(x), start(4), reverse=reverse).x1
        assert torch.allclose(end, start(4) + (-v if reverse else v), rtol=0, atol=1e-12)
    assert torch.equal(v, kept), "what a velocity returns is its own"


@pytest.mark.parametrize("prediction", ["data", "noise"])
def test_unipc_without_corrector_is_dpm_solver(prediction):
    for order, b, kind in [(2, "2", "midpoint"), (2, "exact", "taylor"), (3, "2", "midpoint")]:
        uni = UniPC(8, order=order, prediction=prediction, b=b, corrector=False)
        dpm = DPMSolver(8, order=order, prediction=prediction, kind=kind)
        assert torch.equal(uni(SMOOTH, X).x1, dpm(SMOOTH, X).x1)
    assert rmse(uni(SMOOTH, X).x1, DPMSolver(8, published=True, prediction=prediction)(SMOOTH, X).x1) > 1e-4


def test_the_weights_of_unipc_do_not_depend_on_b_where_they_are_solved_for():
    """B is a common factor of both sides of its equations; only shortcuts of 1/2 show it."""
    s, t, nodes = 0.4, 0.5, [0.3, 0.2]
    forms = [
        exponential_weights("data", "log_snr", nodes, s, t, form) for form in ("exact", "midpoint", "b1")
    ]
    assert forms[0] == forms[1] == forms[2]
    h = log_snr(t) - log_snr(s)
    for b in (-h, math.expm1(-h)):
        phi = [math.expm1(-h)]
        for k in range(1, 3):
            phi.append(phi[-1] / -h - 1 / math.factorial(k))
        r = np.array([(log_snr(node) - log_snr(s)) / h for node in nodes])
        rho = np.linalg.solve(np.stack([r**0, r]), np.array([phi[1], 2 * phi[2]]) / b)
        assert (-t * b * rho / r).tolist() == pytest.approx(forms[0][1:], rel=1e-9)


def test_a_searched_schedule_has_the_other_solvers_as_special_cases():
    times = TIMES
    cases = [
        ({"orders": 1}, Euler(6, grid=Given(times))),
        ({"orders": 2, "forms": "midpoint"}, DPMSolver(6, order=2, grid=Given(times))),
        ({"orders": [1, 2, 3, 3, 3, 3]}, DPMSolver(6, order=3, kind="taylor", grid=Given(times))),
        (
            {"orders": 3, "correctors": True, "forms": "b1", "predictions": "noise"},
            UniPC(6, b="1", prediction="noise", grid=Given(times)),
        ),
        ({"orders": 3, "predictions": "velocity"}, DEIS(6, grid=Given(times))),
        (
            {"orders": 2, "predictions": "velocity", "correctors": True},
            UniPC(6, order=2, prediction="velocity", b="1", grid=Given(times)),
        ),
    ]
    for decisions, other in cases:
        for reverse in (False, True):
            if reverse and isinstance(decisions["orders"], list):
                continue
            found = SolverSchedule(times, **decisions)(SMOOTH, X, reverse=reverse)
            expected = other(SMOOTH, X, reverse=reverse)
            assert torch.allclose(found.x1, expected.x1, rtol=0, atol=1e-14)
            assert torch.equal(found.nfe, expected.nfe)


def test_heun_in_noise_over_signal_takes_the_inner_steps_of_edm():
    levels = sigma_grid(9, 0.01, 50.0, 7.0)
    inner = [1 / (1 + level) for level in levels[:-1]]
    x0 = X * levels[0] / (levels[0] + 1)  # where EDM begins
    rho = RhoRK(10, order=2, grid=Given([0.0, *inner, 1.0]))
    seen = []
    rho(SMOOTH, X, observe=lambda t, x, v: seen.append((t, x)))
    begun = seen[1][1]
    edm = EDMHeun(9, 0.01, 50.0)(SMOOTH, begun * (1 + levels[0]) / levels[0])
    assert torch.allclose(edm.x1, rho(SMOOTH, X).x1, rtol=0, atol=1e-6), "times reach a velocity as float32"
    assert x0.shape == begun.shape


def test_a_mean_stands_for_the_velocity_at_noise_where_that_carries_no_information():
    mean = SMOOTH.means.mean(0)
    assert torch.allclose(
        SMOOTH(X, torch.zeros(len(X))), (mean - X.flatten(1)).reshape(X.shape), rtol=0, atol=1e-14
    )
    channels = X.reshape(len(X), 2, 1, 1)
    field = lambda x, t, cond: SMOOTH(x.reshape(X.shape), t).reshape(x.shape)  # noqa: E731
    for make in (DPMSolver, UniPC, DEIS):
        plain, spared = make(5)(field, channels), make(5, mean=mean.tolist())(field, channels)
        assert torch.allclose(plain.x1, spared.x1, rtol=0, atol=1e-13)
        assert set((plain.nfe - spared.nfe).tolist()) == {1}
    reflowed = make(5, mean=[0.0])(straight, channels)
    assert rmse(reflowed.x1, make(5)(straight, channels).x1) > 0.1, "not so for a straightened flow"
    with pytest.raises(FlowlitError, match="mean has 3 numbers; expected 1, or 2"):
        DEIS(5, mean=[0.0, 0.0, 0.0])(field, channels)


# ends


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("make", few([*MULTISTEP, *OTHERS], 14), ids=name)
def test_grids_with_both_ends_are_finite_and_cost_what_they_say(make, reverse):
    for steps in (1, 2, 3, 5):
        solver = make(steps)
        solution = solver(SMOOTH, X, reverse=reverse)
        budget = solver.order * max(steps - 2, 0) + min(steps, 2) if isinstance(solver, RhoRK) else steps
        assert solution.x1.isfinite().all() and set(solution.nfe.tolist()) == {budget}


GRIDS = [Power(2.0), Quadratic(), LogSNR(), Karras(), Shifted(), Sine()]
"""All that hold 0 and 1 exactly, whatever the number of steps."""


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("grid", GRIDS, ids=repr)
def test_so_they_are_on_every_grid(grid, reverse):
    kinds = [DPMSolver, partial(DPMSolver, prediction="noise"), UniPC, partial(UniPC, prediction="noise")]
    kinds += [DEIS, partial(DEIS, prediction="noise"), partial(DEIS, prediction="data", variable="rho")]
    for steps, kind in itertools.product((1, 2, 3), kinds):
        solution = kind(steps, grid=grid)(SMOOTH, X, reverse=reverse)
        assert solution.x1.isfinite().all() and set(solution.nfe.tolist()) == {steps}
        given = SolverSchedule(grid(steps), orders=3, predictions="noise", correctors=True)
        assert given(SMOOTH, X, reverse=reverse).x1.isfinite().all()
        assert RhoRK(steps, grid=grid)(SMOOTH, X, reverse=reverse).x1.isfinite().all()
        single = SinglestepDPMSolver(steps, grid=grid)(SMOOTH, X, reverse=reverse)
        assert single.x1.isfinite().all() and set(single.nfe.tolist()) == {steps}


@pytest.mark.parametrize("make", few([UniPC, DPMSolver, DEIS], 1))
def test_a_thousand_steps_of_float32_are_finite_and_near(make):
    x0 = SMOOTH.start(2, dtype=torch.float32)
    for grid in (None, LogSNR(1e-6)):
        ends = make(1000, grid=grid)(SMOOTH, x0).x1
        assert rmse(ends, RK45(1e-7, 1e-7)(SMOOTH, x0).x1) < 2e-3


def test_the_last_step_is_the_predicted_data():
    seen = []
    end = DPMSolver(4)(SMOOTH, X, observe=lambda t, x, v: seen.append((t, x, v))).x1
    t, x, v = seen[-1]
    assert torch.allclose(end, x + 0.25 * v, rtol=0, atol=1e-13) and float(t[0]) == 0.75


# what solvers promise


@pytest.mark.parametrize("solver", SHOWN, ids=repr)
def test_nfe_is_what_a_counting_wrapper_counts(solver):
    x0 = start(6, dtype=torch.float32)
    counter = CallCounter(lambda x, t, cond: -expand(cond["id"].float(), x) * x / 3, 6)
    solution = solver(counter, x0, counter.cond)
    assert torch.equal(solution.nfe, counter.counts) and solution.nfe.dtype == torch.int64


@pytest.mark.parametrize("solver", SHOWN, ids=repr)
def test_a_sample_does_not_depend_on_its_batch(solver):
    x0, rate = start(8, dtype=torch.float32), torch.tensor([0.1, 3, 1.5, 0.5, 2.5, 1, 4, 2])
    together = solver(by_rate, x0, {"rate": rate})
    alone = [solver(by_rate, x0[i : i + 1], {"rate": rate[i : i + 1]}) for i in range(8)]
    assert torch.allclose(torch.cat([s.x1 for s in alone]), together.x1, rtol=0, atol=1e-6)
    assert torch.equal(torch.cat([s.nfe for s in alone]), together.nfe)
    assert not torch.allclose(solver(by_rate, x0, {"rate": rate.flip(0)}).x1, together.x1, atol=0.01)


@pytest.mark.parametrize("solver", SHOWN, ids=repr)
@pytest.mark.parametrize("given", [torch.float16, torch.float32, torch.float64])
def test_state_is_float32_at_least(solver, given):
    expected = torch.float64 if given == torch.float64 else torch.float32
    seen = set()

    def field(x, t, cond):
        seen.add((x.dtype, t.dtype))
        return (-x).to(torch.bfloat16)  # a network under autocast

    assert solver(field, start().to(given)).x1.dtype == expected
    assert seen == {(expected, torch.float32)}


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("solver", SHOWN, ids=repr)
def test_observers_see_velocities_where_they_were_evaluated(solver, reverse):
    seen = []
    x0 = start(1) / 2
    kept = x0.clone()
    solver(curved, x0, observe=lambda t, x, v: seen.append((t, x, v)), reverse=reverse)
    times = [float(t) for t, _, _ in seen]
    assert times[0] == (1.0 if reverse else 0.0) and times == sorted(times, reverse=reverse)
    assert torch.equal(seen[0][1], x0) and torch.equal(x0, kept)
    for t, x, v in seen:
        assert torch.allclose(v, curved(x, t), atol=1e-6)


@pytest.mark.parametrize(
    "solver",
    [
        DPMSolver(200, grid=Sine()),
        UniPC(200, grid=Sine()),
        DEIS(200),
        RhoRK(60, grid=Sine()),
        SinglestepDPMSolver(200, grid=Sine()),
        SolverSchedule(time_grid(200), predictions="velocity", orders=3),
        AdaptiveDPMSolver(3, 1e-4, 1e-4, margin=0.001),
    ],
    ids=repr,
)
def test_reverse_undoes_forward(solver):
    x0 = start().clamp(-1, 1)
    x1 = solver(curved, x0).x1
    assert (x1 - x0).abs().max() > 0.04
    assert torch.allclose(solver(curved, x1, reverse=True).x1, x0, rtol=0, atol=1e-3)


def test_gradients_flow_through_them():
    x0 = start().requires_grad_()
    UniPC(4)(curved, x0).x1.sum().backward()
    assert x0.grad.isfinite().all() and x0.grad.abs().min() > 0


@pytest.mark.parametrize("solver", SHOWN, ids=repr)
def test_they_survive_their_description(solver):
    assert spec(solver)["class_path"] == f"flowlit.solvers.{type(solver).__name__}"
    assert build(spec(solver), Solver) == solver


def test_the_adaptive_one_follows_its_tolerance():
    exact = RK45(1e-9, 1e-9)(SMOOTH, X).x1
    for order in (2, 3):
        runs = [AdaptiveDPMSolver(order, r, r / 6)(SMOOTH, X) for r in (0.05, 0.005)]
        assert rmse(runs[1].x1, exact) < rmse(runs[0].x1, exact) / 5
        assert runs[1].nfe.float().mean() > runs[0].nfe.float().mean() and len(runs[1].nfe.unique()) > 1


def test_at_a_budget_of_ten_the_best_is_nearer_than_adams():
    exact = RK45(1e-9, 1e-9)(SMOOTH, X).x1
    errors = {repr(s): rmse(s(SMOOTH, X).x1, exact) for s in (Adams(9), UniPC(10), DPMSolver(10), Euler(10))}
    assert min(errors.values()) < errors[repr(Euler(10))] / 3


# refusals


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DPMSolver(4, order=4), "order is 4; expected 1, 2 or 3"),
        (lambda: DPMSolver(4, prediction="velocity"), "prediction is 'velocity'; expected 'data' or 'noise'"),
        (lambda: UniPC(0), "steps is 0; expected a whole number > 0"),
        (lambda: UniPC(4, b=2), "b is 2; expected '1', '2' or 'exact'"),
        (lambda: UniPC(50, rho=0.002), "rho=0.002 makes some of 50 steps empty"),
        (lambda: DEIS(4, order=4), "order is 4"),
        (lambda: DEIS(4, variable="rho"), "variable rho is for prediction data or noise, found velocity"),
        (lambda: SinglestepDPMSolver(0), "evaluations is 0"),
        (lambda: SinglestepDPMSolver(6, grid=Given(TIMES)), "7 times make 6 steps, found steps=4"),
        (lambda: AdaptiveDPMSolver(margin=0.5), "margin is 0.5; expected one below 0.5"),
        (lambda: SolverSchedule([0, 0.5, 0.5, 1]), "expected increasing times from 0"),
        (lambda: SolverSchedule([0, 0.6, 0.5, 1]), "expected increasing times from 0"),
        (lambda: SolverSchedule([0.1, 0.5, 1]), "expected increasing times from 0"),
        (lambda: SolverSchedule([0, 0.5, 0.9]), "expected increasing times from 0"),
        (lambda: SolverSchedule([0]), "expected increasing times|times make 0 steps"),
        (lambda: SolverSchedule([0, 0.5, 1], orders=[1, 3]), "step 2 has order 3, but there are 2"),
        (lambda: SolverSchedule([0, 0.5, 1], orders=5), "an order is 5; expected 4 at most"),
        (lambda: SolverSchedule([0, 0.5, 1], predictions=["data"]), "predictions has 1 entries for 2 steps"),
        (lambda: SolverSchedule([0, 0.5, 1], scales=[0.0] * 3), "scales has 3 entries for 2 steps"),
    ],
)  # fmt: skip
def test_nonsense_is_refused_before_a_run_begins(make, message):
    with pytest.raises(FlowlitError, match=message):
        make()


def test_no_times_are_refused():
    with pytest.raises(FlowlitError, match="no times to go along"):
        multistep(curved, start(), [0.0], [])
    assert StepRule().order == 1
