"""DPM-Solver-v3: its degenerate members, Gaussian data in one step, and what it estimates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from mixtures import SMOOTH, Mixture, order, rmse
from tools import CallCounter

from flowlit.errors import FlowlitError
from flowlit.paths import expand
from flowlit.solvers import RK45, DPMSolverV3, Euler, UniPC
from flowlit.solvers.dpm_solver_v3 import Evaluated, advance, derivative_weights, integrals
from flowlit.solvers.exponential import log_snr
from flowlit.solvers.exponential_multistep import StepRule, multistep
from flowlit.solvers.grids import EarlyStop, Given, LogSNR
from flowlit.solvers.model_statistics import Coefficients, ModelStatistics, estimate

X = SMOOTH.start()


@dataclass
class Same(ModelStatistics):
    """The same coefficients for all pixels: (1, 0, 0) predicts data, (0, -1, 0) noise, (1 - t, -t, 0) v."""

    kind: str = "data"
    nodes: int = 121
    margin: float = 0.02

    def coefficients(self, velocity: Any) -> Coefficients:
        blank = torch.zeros(self.nodes, 1, 1, 1, dtype=torch.float64)
        t = torch.sigmoid(Coefficients(blank, blank, blank, self.margin).levels()).reshape(-1, 1, 1, 1)
        choices = {"data": (blank + 1, blank), "noise": (blank, blank - 1), "velocity": (1 - t, -t)}
        return Coefficients(*choices[self.kind], blank, self.margin)


@dataclass
class Of(ModelStatistics):
    values: Coefficients

    def coefficients(self, velocity: Any) -> Coefficients:
        return self.values


def on_nodes(statistics, every):
    """Times of every so many nodes of a grid in λ, with both ends."""
    t = torch.sigmoid(statistics.coefficients(None).levels())[::every].tolist()
    return [0.0, *t, 1.0]


@pytest.mark.parametrize("corrector", [False, True])
@pytest.mark.parametrize("num", [1, 2, 3])
@pytest.mark.parametrize("kind", ["data", "noise"])
def test_constant_statistics_are_the_exponential_integrators(kind, num, corrector):
    statistics = Same(kind)
    times = on_nodes(statistics, 12)
    found = DPMSolverV3(
        len(times) - 1, grid=Given(times), statistics=statistics, order=num, corrector=corrector
    )(SMOOTH, X)
    rule = StepRule(num, kind, corrector="exact" if corrector else None)
    expected = multistep(SMOOTH, X, times, [rule] * (len(times) - 1))
    assert torch.equal(found.nfe, expected.nfe)
    assert rmse(found.x1, expected.x1) < (
        1e-12 if num < 3 and not corrector else 2e-3 if kind == "noise" else 2e-4
    )


def test_statistics_of_the_velocity_are_eulers_rule_at_order_one():
    errors = []
    for nodes in (61, 241):
        times = on_nodes(Same("velocity", nodes), (nodes - 1) // 10)
        grid = Given(times)
        solver = DPMSolverV3(12, grid=grid, statistics=Same("velocity", nodes), order=1, corrector=False)
        errors.append(rmse(solver(SMOOTH, X).x1, Euler(12, grid=grid)(SMOOTH, X).x1))
    assert errors[1] < errors[0] / 8 < 1e-4, "quadrature alone is between them"


def gaussian(std=0.3, mean=0.4):
    def velocity(x, t, cond={}):
        t = expand(t, x).to(x.dtype)
        return mean + (t * std**2 - (1 - t)) / ((t * std) ** 2 + (1 - t) ** 2) * (x - t * mean)

    return velocity


def draws(velocity, mean, std, num=64):
    generator = torch.Generator().manual_seed(0)
    z, noise, u = (torch.randn(num, 1, 1, 2, generator=generator, dtype=torch.float64) for _ in range(3))
    return lambda: iter([(z, mean + std * noise, torch.sign(u), {})])


def test_gaussian_data_are_solved_in_one_step_by_estimated_statistics():
    velocity = gaussian()
    found = estimate(velocity, draws(velocity, 0.4, 0.3), 201, 0.02)
    t = torch.sigmoid(found.levels()).reshape(-1, 1, 1, 1)
    exact = (1 - t) ** 2 / ((t * 0.3) ** 2 + (1 - t) ** 2)
    assert torch.allclose(found.l, exact.expand_as(found.l), rtol=0, atol=1e-4), "times are float32"
    assert found.s.abs().max() == 0, "f does not vary, and its slope on itself is nothing"
    begin, end = float(t[0]), float(t[-1])
    variance = lambda t: (t * 0.3) ** 2 + (1 - t) ** 2  # noqa: E731
    x = begin * 0.4 + variance(begin) ** 0.5 * X
    expected = end * 0.4 + variance(end) ** 0.5 * X
    v = velocity(x, torch.full((len(x),), begin, dtype=torch.float64))
    i = integrals(found)
    f = (1 - begin - i.l[0]) / begin * x - (1 - begin) * v
    one = advance(x, i, len(i.l) - 1, [Evaluated(0, f)])
    assert rmse(one, expected) < 1e-3 < 0.3 < rmse(x + (end - begin) * v, expected)


def test_f_is_the_derivative_of_the_remainder_along_the_flow():
    """s and b are the line by which df/dλ depends on f: compared with differences along exact solutions."""
    velocity = Mixture(2, 1, 0.3)
    generator = torch.Generator().manual_seed(1)
    z, u = (torch.randn(400, 1, 1, 1, generator=generator, dtype=torch.float64) for _ in range(2))
    which = torch.randint(0, 2, (400,), generator=generator)
    data = velocity.means[which].reshape(-1, 1, 1, 1) + 0.3 * torch.randn(
        400, 1, 1, 1, generator=generator, dtype=torch.float64
    )
    found = estimate(velocity, lambda: iter([(z, data, torch.sign(u), {})]), 101, 0.05)
    k = 45
    times = torch.sigmoid(found.levels()[k - 1 : k + 2]).tolist()
    x = (1 - times[1]) * z + times[1] * data
    v = velocity(x, torch.full((400,), times[1], dtype=torch.float64))
    states = [x + (t - times[1]) * v for t in times]
    fs = [
        (1 - t - found.l[k + j - 1]) / t * y
        - (1 - t) * velocity(y, torch.full((400,), t, dtype=torch.float64))
        for j, (t, y) in enumerate(zip(times, states, strict=True))
    ]
    slope = (fs[2] - fs[0]) / float(found.levels()[k + 1] - found.levels()[k - 1])
    line = torch.linalg.lstsq(
        torch.stack([fs[1].flatten(), torch.ones(400, dtype=torch.float64)], 1), slope.flatten()[:, None]
    ).solution
    assert [float(found.s[k]), float(found.b[k])] == pytest.approx(
        line.flatten().tolist(), rel=0.05, abs=0.05
    )


@pytest.mark.slow
def test_estimated_statistics_bring_it_nearer_than_unipc():
    generator = torch.Generator().manual_seed(3)
    shape = (512, 1, 1, 2)
    z, noise, u = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3))
    which = torch.randint(0, 3, (512,), generator=generator)
    data = SMOOTH.means[which].reshape(shape) + SMOOTH.std * noise
    found = Of(estimate(SMOOTH, lambda: iter([(z, data, torch.sign(u), {})]), 241, 0.02))
    exact = RK45(1e-8, 1e-8)(SMOOTH, X).x1
    for steps in (6, 8, 10):
        grid = Given([0.0, *torch.linspace(0.02, 0.98, steps - 1).tolist(), 1.0])
        v3 = DPMSolverV3(steps, statistics=found, grid=grid)
        uni = UniPC(steps, order=2, grid=grid)
        assert rmse(v3(SMOOTH, X).x1, exact) < rmse(uni(SMOOTH, X).x1, exact)


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_it_costs_what_it_says_and_shows_what_it_evaluates(steps):
    seen = []
    solver = DPMSolverV3(steps, statistics=Same())
    counter = CallCounter(lambda x, t, cond: SMOOTH(x, t), len(X))
    solution = solver(counter, X, counter.cond, observe=lambda t, x, v: seen.append((t, x, v)))
    assert set(solution.nfe.tolist()) == {steps} and torch.equal(solution.nfe, counter.counts)
    assert len(seen) == steps
    for t, x, v in seen:
        assert torch.allclose(v, SMOOTH(x, t.float()), rtol=0, atol=1e-6)
    alone = torch.cat([solver(SMOOTH, X[i : i + 1]).x1 for i in range(4)])
    assert torch.allclose(alone, solver(SMOOTH, X).x1[:4], rtol=0, atol=1e-12)


@pytest.mark.slow
def test_orders_of_convergence():
    def solve(n, x):
        statistics = Same("velocity", 16 * n + 1)
        i = integrals(statistics.coefficients(None))
        return _inner(x, i, 16, 3)

    def _inner(x, i, every, num):
        known = []
        for s in range(0, len(i.l) - 1, every):
            t = torch.sigmoid(i.levels[s]).item()
            v = SMOOTH(x, torch.full((len(x),), t))
            known = [Evaluated(s, ((1 - t - i.l[s]) / t) * x - (1 - t) * v), *known][:num]
            x = advance(x, i, s + every, known)
        return x

    assert order(solve, 0.02, 0.98, (16, 24, 36)) > 2.3


def test_the_corrector_changes_the_state_and_leaves_the_evaluation_as_it_is():
    statistics = Same("noise")
    times = on_nodes(statistics, 20)
    shown = []
    solver = DPMSolverV3(len(times) - 1, grid=Given(times), statistics=statistics)
    solver(SMOOTH, X, observe=lambda t, x, v: shown.append(x))
    i = integrals(statistics.coefficients(None))

    def f_of(s, x, v):
        t = torch.sigmoid(i.levels[s]).item()
        return Evaluated(s, (1 - t - i.l[s]) / t * x - (1 - t) * v)

    def predictions(keeps):
        x = shown[1]
        known = [f_of(0, x, SMOOTH(x, torch.full((len(x),), times[1])))]
        for s in range(20, 121, 20):
            predicted = advance(x, i, s, known[:2])
            v = SMOOTH(predicted, torch.full((len(x),), torch.sigmoid(i.levels[s]).item()))
            x = advance(x, i, s, [known[0], f_of(s, predicted, v), *known[1:2]])
            known = [f_of(s, predicted if keeps else x, v), *known]
            yield predicted

    kept = list(predictions(True))
    assert all(rmse(a, b) < 1e-12 for a, b in zip(kept, shown[2:], strict=True))
    assert rmse(list(predictions(False))[-1], shown[-1]) > 1e-3


@pytest.mark.parametrize("kind", ["data", "noise", "velocity"])
def test_a_velocity_that_does_not_change_is_followed_exactly_from_statistics_of_the_velocity(kind):
    v = torch.randn(X.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for steps in (1, 2, 3, 6):
        end = DPMSolverV3(steps, statistics=Same(kind, nodes=481))(lambda x, t, cond: v, X).x1
        assert rmse(end, X + v) < 1e-4, "their quadrature"


def test_a_grid_that_stops_early_ends_at_the_node_beside_its_last_time():
    v = torch.randn(X.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    grid = EarlyStop(0.87)
    statistics = Same(nodes=41)
    levels = statistics.coefficients(None).levels()
    t = torch.sigmoid(levels[(levels - log_snr(0.87)).abs().argmin()]).item()
    assert abs(t - 0.87) > 0.002
    solver = DPMSolverV3(4, grid=grid, statistics=statistics, corrector=False)
    assert rmse(solver(lambda x, t, cond: v, X).x1, X / t + v) < 1e-6


@pytest.mark.parametrize("steps", [2, 40, 64])
def test_times_outside_of_the_range_of_the_statistics_are_refused(steps):
    """A rule that goes on without them would be another solver, and none would see it."""
    wide = Same(nodes=2001, margin=0.005)
    assert DPMSolverV3(steps, statistics=wide)(SMOOTH, X).x1.isfinite().all()
    narrow = Same(nodes=2001, margin=0.05)
    if steps == 2:  # the middle is in every range
        assert DPMSolverV3(steps, statistics=narrow)(SMOOTH, X).x1.isfinite().all()
        return
    expected = f"time {1 / steps:.4g} is outside of their range, 0.05 to 0.95; .* --margin {0.5 / steps:.1g}"
    with pytest.raises(FlowlitError, match=expected):
        DPMSolverV3(steps, statistics=narrow)(SMOOTH, X)
    assert DPMSolverV3(steps, statistics=narrow, grid=LogSNR(0.05))(SMOOTH, X).x1.isfinite().all()


def test_a_time_within_half_a_node_of_the_range_is_in_it():
    statistics = Same(nodes=41)
    half = 0.49 * float(statistics.coefficients(None).levels().diff()[0])
    edge = 1 / (1 + math.exp(-(log_snr(0.02) - half)))
    assert edge < 0.0195
    DPMSolverV3(3, statistics=statistics, grid=Given([0.0, edge, 1 - edge, 1.0]))(SMOOTH, X)
    with pytest.raises(FlowlitError, match=r"time 0\.985 is outside of their range"):
        DPMSolverV3(3, statistics=statistics, grid=Given([0.0, edge, 0.985, 1.0]))(SMOOTH, X)


def test_pseudo_order_takes_as_few_evaluations_as_each_derivative_needs():
    distances = [0.0, -0.5, -1.2]
    exact, pseudo = derivative_weights(distances, False), derivative_weights(distances, True)
    values = [1 + 2 * d + 3 * d**2 for d in distances]
    assert [sum(w * v for w, v in zip(row, values, strict=True)) for row in exact] == pytest.approx([1, 2, 6])
    assert pseudo[1] == pytest.approx([2.0, -2.0, 0.0]) and pseudo[2] == pytest.approx(exact[2])


def test_nonsense_is_refused():
    with pytest.raises(
        FlowlitError, match=r"statistics is None; expected flowlit\.networks\.StoredStatistics"
    ):
        DPMSolverV3(4)
    with pytest.raises(FlowlitError, match="to data alone and cannot run in reverse; use RK45"):
        DPMSolverV3(4, statistics=Same())(SMOOTH, X, reverse=True)
    with pytest.raises(FlowlitError, match=r"30 steps come to the same of 9 nodes.*--nodes"):
        DPMSolverV3(30, statistics=Same(nodes=9))(SMOOTH, X)
    with pytest.raises(FlowlitError, match="no samples"):
        estimate(SMOOTH, lambda: iter([]), 9, 0.02)
