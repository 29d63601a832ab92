import math

import numpy as np
import pytest
import torch
from exact_flows import by_rate, curved, curved_end, start
from scipy.integrate import solve_ivp
from tools import CallCounter, LinearField, straight

from flowlit.errors import FlowlitError
from flowlit.networks import EmpiricalFlow
from flowlit.paths import expand
from flowlit.solvers import RK2, RK4, RK45, SDE, Euler, Heun, Midpoint, Ralston, ReNoise, rk45, time_grid

FIXED = [Euler(5), RK2(5, r=0.3), Midpoint(5), Ralston(5), Heun(5), RK4(5)]
DETERMINISTIC = [*FIXED, RK45()]
ALL = [*DETERMINISTIC, SDE(5), ReNoise(5)]


def name(solver):
    return f"{type(solver).__name__}-{getattr(solver, 'r', '')}"


# orders of convergence


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize(
    ("make", "order"),
    [
        (Euler, 1),
        *[(lambda steps, r=r: RK2(steps, r=r), 2) for r in (0.25, 0.5, 2 / 3, 1.0)],
        (Midpoint, 2),
        (Ralston, 2),
        (Heun, 2),
        (RK4, 4),
    ],
    ids=["Euler", "RK2-1/4", "RK2-1/2", "RK2-2/3", "RK2-1", "Midpoint", "Ralston", "Heun", "RK4"],
)
def test_order_of_convergence(make, order, reverse):
    x0 = start().clamp(-1, 1)
    first, last = (curved_end(x0), x0) if reverse else (x0, curved_end(x0))
    steps = [8, 16, 32, 64, 128]
    errors = [float((make(n)(curved, first, reverse=reverse).x1 - last).abs().max()) for n in steps]
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert -slope == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize(("kind", "r"), [(Midpoint, 1 / 2), (Ralston, 2 / 3), (Heun, 1.0)])
def test_named_second_order_rules_are_members_of_the_family(kind, r):
    assert torch.equal(kind(3)(curved, start() / 2).x1, RK2(3, r=r)(curved, start() / 2).x1)


def test_euler_by_hand():
    x = torch.tensor([[1.0]])
    assert float(Euler(2)(lambda x, t, cond: x + t[:, None], x).x1) == pytest.approx(
        (1 + 0.5) * 1.5 + 0.5 * 0.5
    )


def test_one_euler_step_is_exact_on_a_straight_coupling():
    x0 = start()
    assert torch.allclose(Euler(1)(straight, x0).x1, 3 * x0 + 1)


# the adaptive solver


@pytest.mark.parametrize(
    ("field", "end"),
    [
        (curved, curved_end),
        (lambda x, t, cond: -3 * x, lambda x0: x0 * math.exp(-3)),
        (straight, lambda x0: 3 * x0 + 1),
    ],
    ids=["curved", "linear", "straight"],
)
def test_rk45_agrees_with_closed_forms(field, end):
    x0 = start().clamp(-1, 1)
    assert torch.allclose(RK45(1e-7, 1e-7)(field, x0).x1, end(x0), atol=1e-6)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-7])
@pytest.mark.parametrize(
    "field", [curved, straight, lambda x, t, cond={}: -20 * (x - torch.cos(expand(t, x).to(x.dtype)))]
)
def test_rk45_takes_the_steps_that_scipy_takes(field, tolerance):
    x0 = start(1).clamp(-1, 1)

    def flat(t, y):
        return (
            field(torch.from_numpy(y).reshape(x0.shape), torch.tensor([t], dtype=torch.float32))
            .flatten()
            .numpy()
        )

    scipy = solve_ivp(flat, (0, 1), x0.flatten().numpy(), method="RK45", rtol=tolerance, atol=tolerance)
    ours = rk45(field, x0, rtol=tolerance, atol=tolerance)
    assert np.abs(ours.x1.flatten().numpy() - scipy.y[:, -1]).max() < 2 * tolerance
    assert abs(int(ours.nfe) - scipy.nfev) <= 6, "at most one step apart"


def test_rk45_is_as_accurate_as_it_is_told():
    x0 = start().clamp(-1, 1)
    errors = [
        float((rk45(curved, x0, rtol=tol, atol=tol).x1 - curved_end(x0)).abs().max())
        for tol in (1e-3, 1e-5, 1e-7)
    ]
    assert errors[0] > 5 * errors[1] > 25 * errors[2]


def test_rk45_solves_a_sample_alone_as_in_a_batch():
    x0, cond = start(32), {"rate": torch.linspace(0.1, 30, 32)}
    together = rk45(by_rate, x0, cond)
    alone = [rk45(by_rate, x0[i : i + 1], {"rate": cond["rate"][i : i + 1]}) for i in range(32)]
    assert torch.allclose(torch.cat([s.x1 for s in alone]), together.x1, rtol=0, atol=1e-12)
    assert torch.equal(torch.cat([s.nfe for s in alone]), together.nfe)
    assert len(together.nfe.unique()) > 3, "the samples of this test should need different numbers of steps"


def test_rk45_gives_up_on_a_velocity_that_is_not_finite():
    with pytest.raises(FlowlitError, match="velocity of 1 samples is not finite"):
        RK45()(lambda x, t, cond: torch.where(x > 5, torch.nan, x), torch.tensor([[1.0], [9.0]]))


def test_rk45_gives_up_after_too_many_steps():
    with pytest.raises(FlowlitError, match="more than 20 steps; loosen"):
        rk45(lambda x, t, cond: -1e4 * (x - torch.cos(t)[:, None]), torch.ones(1, 1), max_steps=20)


def test_rk45_may_use_all_of_its_steps():
    needed = (
        int(rk45(curved, start(1)).nfe) - 2
    ) // 6  # two evaluations choose the first step, each step takes six
    assert rk45(curved, start(1), max_steps=needed).x1.isfinite().all()
    with pytest.raises(FlowlitError, match=f"1 samples need more than {needed - 1} steps"):
        rk45(curved, start(1), max_steps=needed - 1)


# all of them


@pytest.mark.parametrize("solver", ALL, ids=name)
def test_nfe_is_what_a_counting_wrapper_counts(solver):
    x0 = start(6, dtype=torch.float32)
    counter = CallCounter(lambda x, t, cond: -expand(cond["id"].float(), x) * x, 6)
    solution = solver(counter, x0, counter.cond)
    assert torch.equal(solution.nfe, counter.counts)
    assert solution.nfe.dtype == torch.int64


@pytest.mark.parametrize(
    ("solver", "nfe"),
    [(Euler(1), 1), (Euler(7), 7), (Heun(7), 14), (RK4(7), 28), (SDE(7), 7), (ReNoise(7), 7)],
)
def test_nfe_of_fixed_grids(solver, nfe):
    assert solver(straight, start(2)).nfe.tolist() == [nfe, nfe]


@pytest.mark.parametrize("solver", ALL, ids=name)
def test_condition_rows_follow_their_samples(solver):
    x0, rate = start(8, dtype=torch.float32), torch.tensor([0.1, 9, 3, 0.5, 7, 1, 5, 2])
    together = solver(by_rate, x0, {"rate": rate}).x1
    alone = [solver(by_rate, x0[i : i + 1], {"rate": rate[i : i + 1]}).x1 for i in range(8)]
    assert torch.allclose(torch.cat(alone), together, atol=1e-6)
    assert not torch.allclose(solver(by_rate, x0, {"rate": rate.flip(0)}).x1, together, atol=0.01)


@pytest.mark.parametrize("solver", DETERMINISTIC, ids=name)
@pytest.mark.parametrize("given", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_state_is_float32_at_least(solver, given):
    expected = torch.float64 if given == torch.float64 else torch.float32
    seen = set()

    def field(x, t, cond):
        seen.add((x.dtype, t.dtype))
        return (-x).to(torch.bfloat16)  # a network under autocast

    assert solver(field, start().to(given)).x1.dtype == expected
    assert seen == {(expected, torch.float32)}


@pytest.mark.parametrize("solver", ALL, ids=name)
def test_the_starting_noise_is_left_alone(solver):
    x0 = start(dtype=torch.float32)
    kept = x0.clone()
    solver(LinearField(), x0)
    assert torch.equal(x0, kept)


@pytest.mark.parametrize(
    ("solver", "tolerance"),
    [(Heun(200), 1e-4), (RK4(50), 1e-7), (RK45(1e-8, 1e-8), 1e-6)],
    ids=["Heun", "RK4", "RK45"],
)
def test_reverse_undoes_forward(solver, tolerance):
    x0 = start().clamp(-1, 1)
    x1 = solver(curved, x0).x1
    assert (x1 - x0).abs().max() > 0.04
    assert torch.allclose(solver(curved, x1, reverse=True).x1, x0, atol=tolerance)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("solver", DETERMINISTIC, ids=name)
def test_observers_see_where_each_step_starts(solver, reverse):
    seen = []
    x0 = start(1)
    solver(curved, x0 / 2, observe=lambda t, x, v: seen.append((t, x, v)), reverse=reverse)
    times = [float(t) for t, _, _ in seen]
    assert times[0] == (1.0 if reverse else 0.0) and times == sorted(times, reverse=reverse)
    assert torch.equal(seen[0][1], x0 / 2)
    for t, x, v in seen:
        assert torch.allclose(v, curved(x, t), atol=1e-6)


# grids


def test_time_grid_is_uniform_from_noise_to_data():
    assert time_grid(4) == [0, 0.25, 0.5, 0.75, 1]
    assert time_grid(4, reverse=True) == [1, 0.75, 0.5, 0.25, 0]


def test_rho_moves_the_grid_towards_data_or_noise():
    dense_at_data, dense_at_noise = np.diff(time_grid(10, rho=3)), np.diff(time_grid(10, rho=1 / 3))
    assert (np.diff(dense_at_data) < 0).all() and (np.diff(dense_at_noise) > 0).all()
    assert time_grid(2, rho=2)[1] == pytest.approx(math.sqrt(0.5))


@pytest.mark.parametrize(("steps", "rho"), [(0, 1.0), (-3, 1.0), (4, 0.0), (4, -1.0)])
def test_time_grid_refuses_nonsense(steps, rho):
    with pytest.raises(FlowlitError, match=f"steps={steps}, rho={rho}"):
        time_grid(steps, rho)


@pytest.mark.parametrize("rho", [0.5, 2.0])
def test_a_warped_grid_converges_to_the_same_end(rho):
    x0 = start().clamp(-1, 1)
    assert torch.allclose(RK4(64, rho=rho)(curved, x0).x1, curved_end(x0), atol=1e-4)


# stochastic solvers


def gaussian_flow(mean, std):
    """v = E[x1 - x0 | x_t] for x1 ~ N(mean, std²) independent of x0: a 1-rectified flow in closed form."""

    def velocity(x, t, cond={}):
        t = expand(t, x)
        variance = t**2 * std**2 + (1 - t) ** 2
        return mean + (t * std**2 - (1 - t)) / variance * (x - t * mean)

    return velocity


@pytest.mark.parametrize("sigma", [0.0, 1.0, 3.0])
def test_sde_keeps_the_gaussian_for_any_sigma(sigma):
    x0 = torch.randn(48, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    x1 = SDE(300, sigma=sigma)(gaussian_flow(0.7, 0.4), x0).x1
    assert float(x1.mean()) == pytest.approx(0.7, abs=0.015)
    assert float(x1.std()) == pytest.approx(0.4, abs=0.015)


def test_sde_forgets_its_start_the_more_the_larger_sigma_is():
    x0 = torch.randn(16, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    correlations = []
    for sigma in (0.0, 1.0, 3.0):
        x1 = SDE(100, sigma=sigma)(gaussian_flow(0.0, 1.0), x0).x1
        correlations.append(float(torch.corrcoef(torch.stack([x0.flatten(), x1.flatten()]))[0, 1]))
    assert correlations[0] > 0.99 and correlations[0] > correlations[1] + 0.1 > correlations[2] + 0.3


def test_sde_without_noise_is_euler():
    x0 = start(dtype=torch.float32)
    assert torch.equal(SDE(7, sigma=0.0)(curved, x0 / 2).x1, Euler(7)(curved, x0 / 2).x1)


@pytest.mark.parametrize("solver", [SDE(6), SDE(6, sigma=3.0), ReNoise(6), ReNoise(6, fresh=False)], ids=repr)
def test_stochastic_solvers_do_not_depend_on_the_batch(solver):
    x0, field = start(5, dtype=torch.float32), gaussian_flow(0.2, 0.5)
    together, order = solver(field, x0).x1, torch.tensor([3, 1, 4, 0, 2])
    assert torch.equal(solver(field, x0[order]).x1, together[order])
    assert torch.equal(solver(field, x0[2:3]).x1, together[2:3])
    torch.manual_seed(123)
    assert torch.equal(solver(field, x0).x1, together), "nor on the global seed"


@pytest.mark.parametrize("solver", [SDE(4), ReNoise(4)], ids=repr)
def test_stochastic_solvers_refuse_to_run_in_reverse(solver):
    with pytest.raises(FlowlitError, match=f"{type(solver).__name__} draws noise and cannot run in reverse"):
        solver(straight, start(), reverse=True)


def test_renoise_with_the_original_noise_by_hand():
    x0, v = start(), LinearField().double().requires_grad_(False)
    at = [torch.full((4,), t) for t in (0.0, 0.5)]
    middle = 0.5 * x0 + 0.5 * (x0 + v(x0, at[0]))
    assert torch.allclose(ReNoise(2, fresh=False)(v, x0).x1, middle + 0.5 * v(middle, at[1]))


def test_renoise_draws_fresh_noise_at_every_step():
    x0, image = torch.randn(32, 1, 16, 16), torch.full((1, 1, 16, 16), 0.3)
    states = []
    solution = ReNoise(3)(
        EmpiricalFlow(image), x0, observe=lambda t, x, v: states.append((x - t[0] * image) / (1 - t[0]))
    )
    assert torch.allclose(solution.x1, image.expand_as(x0), atol=1e-4), (
        "one image is all that this flow knows"
    )
    noises = torch.stack([state.flatten() for state in states])
    assert noises.std(1).tolist() == pytest.approx([1, 1, 1], abs=0.04)
    assert torch.allclose(torch.corrcoef(noises), torch.eye(3), atol=0.05)
