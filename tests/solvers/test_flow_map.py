"""Jumps of a flow map: exact on the true map, counted, and refused to networks of one time."""

import pytest
import torch
from gaussian_map import SHAPE, GaussianMap
from tools import randomise, tiny_unet

from flowlit._support.batch_invariance import BatchInvariant
from flowlit.errors import FlowlitError
from flowlit.networks import ClassifierFreeGuidance
from flowlit.solvers import Euler, Jumps, ReNoise
from flowlit.solvers.grids import Given

MAP = GaussianMap().requires_grad_(False)
X0 = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def end(x0):
    one = torch.ones(len(x0), dtype=torch.float64)
    return x0 + MAP(x0, 0 * one, {"r": one})


@pytest.mark.parametrize(
    "solver", [Jumps(), Jumps(3), Jumps(4, rho=2.0), Jumps(3, grid=Given([0, 0.07, 0.9, 1]))], ids=repr
)
def test_the_true_map_is_exact_on_any_grid_and_counted(solver):
    solution = solver(MAP, X0)
    torch.testing.assert_close(solution.x1, end(X0), rtol=1e-10, atol=1e-10)
    assert solution.nfe.tolist() == [solver.steps] * 5
    assert not torch.allclose(Euler(solver.steps)(MAP, X0).x1, end(X0), atol=1e-2)


def test_observers_see_every_jump():
    seen = []
    Jumps(3)(MAP, X0, observe=lambda t, x, u: seen.append((float(t[0]), x, u)))
    assert [t for t, _, _ in seen] == pytest.approx([0, 1 / 3, 2 / 3])
    torch.testing.assert_close(seen[0][1], X0)


def test_noise_again_is_multistep_consistency_sampling():
    """The samples keep the distribution, their own rows' noise, and agree with ReNoise for one time."""
    x0 = torch.randn(20_000, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x1 = Jumps(2, renoise=True)(MAP, x0).x1.flatten(1)
    assert torch.allclose(x1.mean(0), MAP.mean, atol=0.06)
    covariance = MAP.basis @ torch.diag(MAP.spectrum) @ MAP.basis.T
    assert torch.allclose(torch.cov(x1.T), covariance, atol=0.12)

    def one_time(x, t, cond={}):
        return MAP(x, t, {"r": torch.ones_like(t)})

    torch.testing.assert_close(Jumps(3, renoise=True)(MAP, X0).x1, ReNoise(3)(one_time, X0).x1)
    assert not torch.allclose(Jumps(3, renoise=True)(MAP, X0).x1, end(X0), atol=0.1)


def test_networks_of_one_time_are_refused_also_inside_wrappers():
    one = tiny_unet()
    for velocity in (one, BatchInvariant(one)):
        with pytest.raises(FlowlitError, match=r"Jumps: UNet has no second time.* second_time: true"):
            Jumps()(velocity, torch.randn(2, 1, 8, 8))
    with pytest.raises(FlowlitError, match="cannot run in reverse"):
        Jumps()(MAP, X0, reverse=True)


@torch.no_grad()
def test_a_guided_flow_map_jumps_and_counts_both_evaluations():
    network = randomise(tiny_unet(num_classes=2, label_dropout=0.1, second_time=True)).eval()
    guided = ClassifierFreeGuidance(network, 2.0)
    x0 = torch.randn(2, 1, 8, 8)
    solution = Jumps(2)(BatchInvariant(guided), x0, {"label": torch.tensor([0, 1])})
    assert solution.nfe.tolist() == [4, 4]
    assert not torch.allclose(
        solution.x1, Euler(2)(guided, x0, {"label": torch.tensor([0, 1])}).x1, atol=1e-3
    )
