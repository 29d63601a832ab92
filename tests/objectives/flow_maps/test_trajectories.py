"""Regression onto trajectories that are solved in the step."""

import pytest
import tiny
import torch
from flow_maps import student
from gaussian_map import GaussianMap
from tools import tiny_unet

from flowlit.couplings import Independent
from flowlit.data import Digits
from flowlit.errors import FlowlitError
from flowlit.modules import FlowDataModule, FlowModule
from flowlit.objectives import Combined
from flowlit.objectives.distances import SquaredError
from flowlit.objectives.flow_maps import Lagrangian, OnTrajectories, states, trajectory_regression_loss
from flowlit.paths import expand
from flowlit.solvers import RK4, RK45, Euler, Heun, Jumps
from flowlit.solvers.grids import Given

MAP = GaussianMap()
PAIR = MAP.pair(16)
GRID = [0.0, 0.05, 0.3, 0.75, 1.0]


def test_states_are_those_of_the_solver_at_its_own_times():
    times, path = states(MAP, Euler(4, grid=Given(GRID)), PAIR.x0)
    assert times.tolist() == pytest.approx(GRID) and torch.equal(path[0], PAIR.x0)
    x = PAIR.x0
    for k in range(4):
        t = times[k].double().expand(16)
        x = x + expand((times[k + 1] - times[k]).expand(16).double(), x) * MAP(x, t)
        torch.testing.assert_close(path[k + 1], x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("between", ["any", "next", "end"])
def test_the_true_map_has_no_loss_on_exact_trajectories_and_the_other_sign_much(between):
    objective = OnTrajectories(GaussianMap(), Jumps(4, grid=Given(GRID)), between, draws=3)
    torch.manual_seed(0)
    assert float(objective(MAP, PAIR)["loss"]) < 1e-12
    assert float(objective(GaussianMap(sign=-1.0), PAIR)["loss"]) > 0.1


def test_the_loss_falls_with_the_order_of_the_solver():
    def loss(steps):
        torch.manual_seed(0)
        return float(OnTrajectories(GaussianMap(), RK4(steps), "end", draws=8)(MAP, PAIR)["loss"])

    assert loss(16) < 1e-3 * loss(4)


def test_places_are_all_pairs_equally_often():
    torch.manual_seed(0)
    i, j = OnTrajectories(GaussianMap(), Heun(3)).places(60_000, 3)
    assert bool((i < j).all())
    counts = torch.bincount(4 * i + j, minlength=16)
    assert (counts[counts > 0] / 60_000).tolist() == pytest.approx([1 / 6] * 6, abs=0.01)
    i, j = OnTrajectories(GaussianMap(), Heun(3), "next").places(100, 3)
    assert torch.equal(j, i + 1) and sorted(i.unique().tolist()) == [0, 1, 2]
    assert set(OnTrajectories(GaussianMap(), Heun(3), "end").places(100, 3)[1].tolist()) == {3}


def test_each_row_is_compared_with_its_own_trajectory():
    times, path = states(MAP, Euler(4), PAIR.x0)
    i, j = torch.arange(16) % 3, torch.arange(16) % 3 + 1
    losses = trajectory_regression_loss(MAP, path, times, i, j, distance=SquaredError())
    for row in (0, 4, 11):
        a, b = int(i[row]), int(j[row])
        x, y = path[a, row : row + 1], path[b, row : row + 1]
        u = MAP(x, times[a : a + 1], {"r": times[b : b + 1]})
        expected = (u - (y - x) / float(times[b] - times[a])).square().mean()
        torch.testing.assert_close(losses[row], expected)


def test_gradients_reach_the_student_alone():
    guide, student = GaussianMap(), GaussianMap(sign=0.5)
    OnTrajectories(guide, Heun(2))(student, PAIR)["loss"].backward()
    assert guide.theta.grad is None and float(student.theta.grad) != 0


def stored(solver):
    """The pair whose states a store would have."""
    times, path = states(GaussianMap(), solver, PAIR.x0)
    cond = {"path": path[1:-1].transpose(0, 1), "times": times[1:].expand(16, -1)}
    return PAIR._replace(x1=path[-1], cond=cond)


@pytest.mark.parametrize("between", ["any", "next", "end"])
def test_stored_states_are_learned_from_as_if_they_were_solved_in_the_step(between):
    solver = Heun(4, grid=Given(GRID))
    losses = []
    for objective, pair in [
        (OnTrajectories(GaussianMap(), solver, between, draws=3), PAIR),
        (OnTrajectories(between=between, draws=3), stored(solver)),
    ]:
        torch.manual_seed(0)
        losses.append(float(objective(GaussianMap(sign=0.5), pair)["loss"].detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6) and losses[0] > 0.1


def test_each_row_has_times_of_its_own():
    fine, coarse = stored(Jumps(4, grid=Given(GRID))), stored(Jumps(4))
    pair = PAIR._replace(
        x1=torch.cat([fine.x1[:8], coarse.x1[8:]]),
        cond={name: torch.cat([fine.cond[name][:8], coarse.cond[name][8:]]) for name in fine.cond},
    )
    assert float(OnTrajectories(draws=4)(MAP, pair)["loss"]) < 1e-12
    mixed = pair._replace(cond={**pair.cond, "times": fine.cond["times"]})
    assert float(OnTrajectories(draws=4)(MAP, mixed)["loss"]) > 1e-3


def test_states_are_for_the_objective_and_not_for_its_network_or_its_neighbours():
    seen = []

    def velocity(x, t, cond):
        seen.append(set(cond))
        return MAP(x, t, cond)

    pair = stored(Jumps(4))
    pair = pair._replace(cond={**pair.cond, "label": torch.zeros(16, dtype=torch.int64)})
    both = Combined({"paths": OnTrajectories(), "lagrangian": Lagrangian(guide=GaussianMap())})
    assert set(both(velocity, pair)) == {"loss", "paths", "lagrangian"}
    assert seen and all("r" in names and names <= {"r", "label"} for names in seen)
    assert set(both.conditions(pair.cond)) == {"label"}


def test_pairs_without_states_are_refused_and_a_guide_alone_too():
    with pytest.raises(FlowlitError, match="pairs without states, and no guide to solve for them"):
        OnTrajectories()(MAP, PAIR)
    with pytest.raises(FlowlitError, match="a guide without a solver"):
        OnTrajectories(GaussianMap())
    with pytest.raises(FlowlitError, match="a solver without a guide"):
        OnTrajectories(solver=Heun(2))


def test_pairs_without_states_are_refused_before_a_step(tmp_path, monkeypatch):
    def step(self, velocity, pair):
        raise AssertionError("a step")

    monkeypatch.setattr(OnTrajectories, "forward", step)
    data = FlowDataModule(Independent(Digits(limit=8, labels=False)), batch_size=4)
    for objective in (OnTrajectories(), Combined({"paths": OnTrajectories(), "map": Lagrangian()})):
        module = FlowModule(student(), objective)
        with pytest.raises(FlowlitError, match="pairs without states"):
            tiny.trainer(tmp_path, 1, limit_val_batches=0).fit(module, data)


def test_to_the_end_a_network_of_one_time_will_do():
    class OneTime(GaussianMap):
        reads = frozenset()

        def forward(self, x, t, cond=None):
            assert not cond
            return super().forward(x, t, {"r": torch.ones_like(t)})

    objective = OnTrajectories(GaussianMap(), Jumps(4, grid=Given(GRID)), "end", draws=3)
    assert float(objective(OneTime(), PAIR)["loss"]) < 1e-12
    assert float(objective(OneTime(sign=0.5), PAIR)["loss"]) > 0.1
    module = FlowModule(tiny_unet(), OnTrajectories(tiny_unet(), Heun(2), "end"))
    assert not module.trains_flow


def test_what_does_not_fit_is_refused():
    with pytest.raises(FlowlitError, match="RK45 has no grid of times"):
        OnTrajectories(GaussianMap(), RK45())
    with pytest.raises(FlowlitError, match="OnTrajectories trains a flow map"):
        FlowModule(tiny_unet(), OnTrajectories(tiny_unet(), Heun(2)))
