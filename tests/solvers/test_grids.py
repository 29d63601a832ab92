"""Times as objects: where a solver steps is a value that a YAML, a checkpoint and a store hold."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import tiny
import torch
import yaml
from exact_flows import curved, curved_end, start
from tools import randomise, tiny_unet, write_checkpoint

import flowlit
from flowlit.couplings import SeededNoise
from flowlit.couplings.store.manifest import read_manifest
from flowlit.couplings.store.reader import StoredPairs
from flowlit.errors import FlowlitError
from flowlit.modules import FlowDataModule, Teacher
from flowlit.networks.checkpoints.spec import build, spec
from flowlit.paths import expand, interpolate
from flowlit.solvers import (
    DEIS,
    RK2,
    RK4,
    SDE,
    Adams,
    DPMSolver,
    Euler,
    Heun,
    Midpoint,
    Ralston,
    ReNoise,
    UniPC,
    sigma_grid,
    time_grid,
)
from flowlit.solvers.grids import Given, Karras, LogSNR, Power, Quadratic, Shifted, Sine, TimeGrid
from flowlit.types import Solver

KINDS = [Euler, RK2, Midpoint, Ralston, Heun, RK4, SDE, ReNoise, Adams, DPMSolver, UniPC, DEIS]
REVERSIBLE = [kind for kind in KINDS if kind not in (SDE, ReNoise)]
STEPS = {
    Adams: [64, 128, 256, 512],
    RK4: [8, 12, 16, 24, 32],
}  # times are float32: RK4 is soon at their rounding
SEARCHED = [0.0, 0.1, 0.4, 0.7, 1.0]


def name(kind):
    return kind.__name__


@dataclass
class Smooth(TimeGrid):
    """t = u + a sin(2πu) / 2π: a grid of another kind, dense where its density is."""

    a: float = 0.6

    def __call__(self, steps):
        u = np.linspace(0, 1, steps + 1)
        return [0.0, *(u + self.a * np.sin(2 * np.pi * u) / (2 * np.pi))[1:-1].tolist(), 1.0]


class Bare(TimeGrid):
    """One that cannot be described: its argument is no field."""

    def __init__(self, middle):
        self.middle = middle

    def __call__(self, steps):
        return [0.0, self.middle, 1.0]


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize(
    ("kind", "order"), [(Euler, 1), (Midpoint, 2), (Ralston, 2), (Heun, 2), (RK4, 4), (Adams, 3)]
)
def test_the_order_of_convergence_holds_on_a_grid_that_is_not_uniform(kind, order, reverse):
    x0 = start().clamp(-1, 1)
    first, last = (curved_end(x0), x0) if reverse else (x0, curved_end(x0))
    steps = STEPS.get(kind, [8, 16, 32, 64, 128])
    ends = [kind(n, grid=Smooth())(curved, first, reverse=reverse).x1 for n in steps]
    errors = [float((end - last).square().mean().sqrt()) for end in ends]
    assert -np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("rho", [1.0, 2.0, 0.5])
@pytest.mark.parametrize("kind", KINDS, ids=name)
def test_one_list_of_times_is_one_result_to_the_bit_however_it_is_named(kind, rho):
    x0 = start(dtype=torch.float32) / 2
    solvers = [kind(7, rho), kind(7, grid=Power(rho)), kind(7, grid=Given(time_grid(7, rho)))]
    ends = [solver(curved, x0).x1 for solver in solvers]
    assert torch.equal(ends[0], ends[1]) and torch.equal(ends[0], ends[2])
    assert not torch.equal(ends[0], kind(7, grid=Smooth())(curved, x0).x1)
    if kind in REVERSIBLE:
        back = [solver(curved, x0, reverse=True).x1 for solver in solvers]
        assert torch.equal(back[0], back[1]) and torch.equal(back[0], back[2])


def test_euler_on_given_times_by_hand():
    x = torch.tensor([[1.0]])
    v = lambda x, t, cond: x + expand(t, x)  # noqa: E731
    first = 1 + 0.2 * 1.0
    assert float(Euler(2, grid=Given([0, 0.2, 1]))(v, x).x1) == pytest.approx(first + 0.8 * (first + 0.2))
    last = 1 - 0.8 * (1 + 1)
    back = Euler(2, grid=Given([0, 0.2, 1]))(v, x, reverse=True).x1
    assert float(back) == pytest.approx(last - 0.2 * (last + 0.2))


def test_renoise_goes_back_to_the_times_that_are_given():
    x0, x1 = start(dtype=torch.float32), start(dtype=torch.float32).flip(0)
    seen = []
    solver = ReNoise(2, fresh=False, grid=Given([0, 0.3, 1]))
    solver(lambda x, t, cond: x1 - x0, x0, observe=lambda t, x, v: seen.append(x))
    assert torch.allclose(seen[1], interpolate(x0, x1, torch.full((len(x0),), 0.3)), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS, ids=name)
def test_observers_see_the_times_that_are_given(kind):
    seen = []
    solution = kind(4, grid=Given(SEARCHED))(curved, start(2) / 2, observe=lambda t, x, v: seen.append(t))
    assert [float(t[0]) for t in seen] == pytest.approx(SEARCHED[:-1])
    assert torch.equal(solution.nfe, kind(4)(curved, start(2) / 2).nfe)


GRIDS = [Power(2.0), Quadratic(), LogSNR(), Karras(), Shifted(), Sine()]


@pytest.mark.parametrize("grid", GRIDS, ids=repr)
def test_every_grid_goes_from_noise_to_data_with_any_number_of_steps(grid):
    for steps in (1, 2, 3, 4, 17, 1000):
        times = grid(steps)
        assert len(times) == steps + 1 and (times[0], times[-1]) == (0, 1)
        assert all(a < b for a, b in itertools.pairwise(times))
        assert Euler(steps, grid=grid).times(reverse=True) == times[::-1]


def test_grids_are_those_of_their_papers():
    assert Quadratic()(4) == pytest.approx([0, 7 / 16, 3 / 4, 15 / 16, 1])
    levels = np.log(np.array(LogSNR(0.1)(6)[1:-1]) / (1 - np.array(LogSNR(0.1)(6)[1:-1])))
    assert levels[[0, -1]].tolist() == pytest.approx([-np.log(9), np.log(9)])
    assert np.diff(levels) == pytest.approx(np.full(4, np.log(9) / 2))
    assert Karras()(9)[1:-1] == pytest.approx([1 / (1 + s) for s in sigma_grid(8, 0.002, 80, 7)[:-1]])
    assert Shifted(3.0)(4)[1] == pytest.approx(1 - 3 * 0.75 / (1 + 2 * 0.75))
    assert Shifted(1.0)(5) == pytest.approx(time_grid(5))
    assert Sine()(3)[1] == pytest.approx(0.25)
    assert np.diff(Shifted(3.0)(9)).argmin() == 0, "dense near noise"
    assert np.diff(Quadratic()(9)).argmin() == 8, "dense near data"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogSNR(0.5), "margin is 0.5; expected a distance to both ends below 0.5"),
        (lambda: Karras(1.0, 1.0), "expected sigma_min < sigma_max"),
    ],
)
def test_grids_with_nothing_between_their_ends_are_refused(make, message):
    with pytest.raises(FlowlitError, match=message):
        make()


# refusals


@pytest.mark.parametrize("kind", KINDS, ids=name)
@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0, 0.5, 0.9], r"from 0 \(noise\) to 1 \(data\), found \[0.0, 0.5, 0.9\]"),
        ([0.1, 0.5, 1], "expected increasing times from 0"),
        ([1, 0.5, 0], "expected increasing times from 0"),
        ([0, 1, 0.5, 1], "expected increasing times from 0"),
        ([0, 0.5, 0.5, 1], "expected increasing times from 0"),
    ],
    ids=["end", "begin", "backward", "turn", "empty-step"],
)
def test_times_that_are_no_way_from_noise_to_data_are_refused_before_a_run(kind, times, message):
    with pytest.raises(FlowlitError, match=f"time grid: .*{message}"):
        kind(len(times) - 1, grid=Given(times))


@pytest.mark.parametrize("times", [[0, float("nan"), 1], [0, "0.5", 1], "0.5", None], ids=repr)
def test_times_that_are_no_numbers_are_refused(times):
    with pytest.raises(FlowlitError, match=r"Given: times is .*; expected several, each a finite number"):
        Given(times)


def test_steps_and_rho_that_contradict_a_grid_are_refused():
    with pytest.raises(FlowlitError, match=r"5 times make 4 steps, found steps=3; write steps: 4, or list 4"):
        Heun(3, grid=Given(SEARCHED))
    with pytest.raises(FlowlitError, match="found steps=1"):
        Euler(grid=Given(SEARCHED))
    with pytest.raises(FlowlitError, match=r"rho=2.0 is not used with grid=Given.*leave one out"):
        Adams(4, 2.0, grid=Given(SEARCHED))


# descriptions


@pytest.mark.parametrize("grid", [Given(SEARCHED), Power(0.5), Smooth(0.3)], ids=repr)
@pytest.mark.parametrize("kind", KINDS, ids=name)
def test_a_grid_survives_its_description(kind, grid):
    solver = kind(4, grid=grid)
    written = yaml.safe_load(yaml.safe_dump(spec(solver)))
    module = __name__ if isinstance(grid, Smooth) else "flowlit.solvers.grids"
    assert written["init_args"]["grid"]["class_path"] == f"{module}.{type(grid).__name__}"
    assert build(written, Solver) == solver != kind(4)


@pytest.mark.parametrize("kind", KINDS, ids=name)
def test_a_solver_without_a_grid_is_described_as_it_always_was(kind):
    assert "grid" not in spec(kind(4))["init_args"]
    assert build(
        {"class_path": f"flowlit.solvers.{kind.__name__}", "init_args": {"steps": 4}}, Solver
    ) == kind(4)


def test_equal_times_are_equal_grids():
    assert Given([0, 1]) == Given((0.0, 1.0)) == build(spec(Given((0, 1))), TimeGrid)


def test_a_solver_whose_grid_cannot_be_described_has_no_description():
    assert spec(Euler(2, grid=Bare(0.5))) is None


def test_a_checkpoint_may_name_grids_and_nothing_else_in_their_place():
    written = spec(Euler(4, grid=Given(SEARCHED)))
    written["init_args"]["grid"] = {"class_path": "subprocess.Popen", "init_args": {"args": ["true"]}}
    with pytest.raises(FlowlitError):
        build(written, Solver)


def test_a_searched_grid_is_a_value_in_a_yaml(cli, tmp_path):
    few = {"class_path": "flowlit.solvers.Euler", "init_args": {"steps": 4, "grid": spec(Given(SEARCHED))}}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump({"model": {"solvers": {"few": few}}}))
    files = ["-c", "experiments/couple_digits.yaml", "-c", str(tmp_path / "grid.yaml")]
    outcome = cli("couple", *files, "--print_config")
    assert outcome.code == 0, outcome.err
    found = yaml.safe_load(outcome.out)["model"]["init_args"]["solvers"]["few"]["init_args"]
    assert found["grid"] == spec(Given(SEARCHED)) and found["steps"] == 4


def test_a_generator_and_a_store_take_the_grid_of_their_solver(tmp_path):
    network, solver = randomise(tiny_unet(), scale=0.15).eval(), Heun(4, grid=Given(SEARCHED))
    path = write_checkpoint(tmp_path / "c.ckpt", network, solver=spec(solver), codec=None)
    assert flowlit.load(path, "raw").solver == solver
    store = str(tmp_path / "store")
    words = {"store": store, "num": 4, "seed": 7, "batch_size": 2, "x0": "float32", "x1": "float32"}
    for num in (2, 4):  # the second time goes on where the first ended: the solver is the same
        model = Teacher(network=network, solvers={"heun": Heun(4, grid=Given(SEARCHED))})
        data = FlowDataModule(noise=SeededNoise((1, 8, 8), 1, seed=0))
        tiny.trainer(tmp_path, 1).couple(model, data, **{**words, "num": num})
    assert read_manifest(store)["solver"].items() >= spec(solver).items()
    pairs = StoredPairs([store]).__getitems__(range(4))
    with torch.inference_mode():
        assert torch.allclose(pairs.x1, solver(network, pairs.x0).x1, atol=1e-5)
    other = Teacher(network=network, solvers={"heun": Heun(4, grid=Given([0, 0.2, 0.4, 0.7, 1]))})
    with pytest.raises(FlowlitError, match="solver"):
        tiny.trainer(tmp_path, 1).couple(other, data, **{**words, "num": 6})
