"""ResShift's chain against numbers of its paper's code, and its times as training and solvers take them."""

import pytest
import torch

from flowlit.errors import FlowlitError
from flowlit.networks.checkpoints.spec import build, spec
from flowlit.objectives.times import DiffusionSteps as DrawnSteps
from flowlit.paths import DiscreteVP, ResShift
from flowlit.solvers import Euler
from flowlit.solvers.grids import DiffusionSteps
from flowlit.types import Solver

SHORT = ResShift(4, first=0.2)
ROOTS = {4: [0.1, 0.5201, 0.7614, 0.99], 15: [0.02, 0.1172, 0.1763, 0.2336]}
TIMES = {4: [0.908, 0.584, 0.356, 0.020], 15: [0.980, 0.894, 0.846, 0.802]}


@pytest.mark.parametrize("chain", [SHORT, ResShift()], ids=["4", "15"])
def test_levels_and_times_are_those_of_its_code(chain):
    assert chain.roots()[:4] == pytest.approx(ROOTS[chain.steps], abs=5e-5)
    assert chain.roots()[-3:] == pytest.approx(
        ROOTS[4][1:] if chain is SHORT else [0.83, 0.9086, 0.99], abs=5e-5
    )
    assert chain.times()[:4] == pytest.approx(TIMES[chain.steps], abs=5e-4)
    assert chain.times()[-4:] == pytest.approx(
        TIMES[4] if chain is SHORT else [0.364, 0.273, 0.161, 0.020], abs=5e-4
    )


@pytest.mark.parametrize("chain", [SHORT, ResShift(), ResShift(8, power=0.5, kappa=0.4)], ids=repr)
def test_scales_and_places_belong_to_the_levels(chain):
    root = torch.tensor(chain.roots())
    ratio = torch.tensor(chain.ratios())
    torch.testing.assert_close(chain.root(ratio), root, rtol=1e-13, atol=0)
    torch.testing.assert_close(chain.alpha(ratio), 1 - root**2, rtol=1e-11, atol=0)
    assert chain.time_input(ratio).tolist() == pytest.approx(list(range(chain.steps)), abs=1e-12)


@pytest.mark.parametrize("chain", [SHORT, ResShift(), ResShift(8, power=0.5, kappa=0.4)], ids=repr)
def test_its_steps_add_up_to_its_marginals_which_are_the_straight_paths(chain):
    """q(x_k | x_(k-1)) shifts by α_k (c - x) and adds κ² α_k; x_k is t_k of the path from c + κ ε."""
    x, image = 1.7, -0.4
    mean, variance, before = x, 0.0, 0.0
    ratio = torch.tensor(chain.ratios())
    shares = zip(chain.alpha(ratio).tolist(), chain.root(ratio).tolist(), chain.times(), strict=True)
    for signal, root, t in shares:
        step = root**2 - before
        mean, variance, before = mean + step * (image - x), variance + chain.kappa**2 * step, root**2
        assert (signal * x + root**2 * image, chain.kappa * root) == pytest.approx((mean, variance**0.5))
        on_the_path = image + signal / t * (t * x + (1 - t) * image - image)
        assert on_the_path == pytest.approx(mean)
        assert signal / t * (1 - t) * chain.kappa == pytest.approx(variance**0.5)


def test_a_small_start_has_the_smaller_first_level():
    assert ResShift(kappa=0.4).roots()[0] == pytest.approx(0.04)
    assert ResShift(kappa=4.0).roots()[0] == pytest.approx(0.01)


def test_solvers_step_where_the_chain_does():
    grid = DiffusionSteps(SHORT)
    assert grid(4) == [0.0, *SHORT.times()[2::-1], 1.0]
    assert grid(1) == [0.0, 1.0] and grid(2) == [0.0, SHORT.times()[1], 1.0]
    solver = Euler(4, grid=grid)
    assert build(spec(solver), Solver) == solver and solver.times() == grid(4)
    assert len(DiffusionSteps(DiscreteVP())(10)) == 11
    with pytest.raises(FlowlitError, match="4 steps, found steps=5"):
        Euler(5, grid=grid)


def test_training_draws_each_step_as_often():
    torch.manual_seed(0)
    drawn = DrawnSteps(SHORT)(4000)
    places = (drawn[:, None] - torch.tensor(SHORT.times(), dtype=torch.float32)).abs().min(1)
    assert float(places.values.max()) == 0 and drawn.dtype == torch.float32
    assert torch.bincount(places.indices).tolist() == pytest.approx([1000] * 4, abs=110)


@pytest.mark.parametrize("arguments", [{"steps": 1}, {"first": 0.99}, {"last": 0.01}], ids=str)
def test_chains_without_a_way_are_refused(arguments):
    with pytest.raises(FlowlitError, match="ResShift: expected steps > 1 and first < last"):
        ResShift(**arguments)
