import math

import pytest
import torch

from flowlit.errors import FlowlitError
from flowlit.objectives.times import Fixed, Grid, KarrasSteps, LogitNormal, Shifted, Uniform, UShaped
from flowlit.solvers import grids

N = 200_000


@pytest.mark.parametrize(
    "law",
    [
        Uniform(),
        Uniform(0.2, 0.8),
        Fixed(0.0),
        Grid(4),
        UShaped(),
        LogitNormal(),
        KarrasSteps(),
        Shifted(shift=3.0),
    ],
    ids=repr,
)
def test_times_are_float32_of_the_asked_number_in_the_unit_interval(law):
    t = law(1000)
    assert t.shape == (1000,) and t.dtype == torch.float32
    assert t.min() >= 0 and t.max() <= 1


def test_uniform_fills_its_interval():
    t = Uniform(0.2, 0.8)(N)
    assert float(t.min()) == pytest.approx(0.2, abs=1e-3) and float(t.max()) == pytest.approx(0.8, abs=1e-3)
    assert float(t.mean()) == pytest.approx(0.5, abs=0.002)
    assert float(t.var()) == pytest.approx(0.6**2 / 12, rel=0.02)


def test_fixed_is_one_time():
    assert Fixed(0.25)(5).tolist() == [0.25] * 5


def test_grid_visits_the_times_of_k_euler_steps_equally_often():
    values, counts = Grid(4)(N).unique(return_counts=True)
    assert values.tolist() == [0.0, 0.25, 0.5, 0.75]
    assert counts / N == pytest.approx([0.25] * 4, abs=0.01)


@pytest.mark.parametrize("x", [0.1, 0.3, 0.5, 0.9])
def test_u_shaped_has_the_distribution_function_of_its_density(x):
    """∫₀ˣ exp(a t) + exp(a (1 - t)) dt, normalised."""
    a = 4.0
    expected = (math.exp(a * x) - math.exp(a * (1 - x)) + math.exp(a) - 1) / (2 * (math.exp(a) - 1))
    assert float((UShaped(a)(N) < x).float().mean()) == pytest.approx(expected, abs=0.005)


def test_u_shaped_stays_inside_its_clamp():
    t = UShaped(clamp=0.01)(N)
    assert t.min() >= 0.01 and t.max() <= 0.99


def test_logit_normal_is_normal_in_logits():
    logits = torch.logit(LogitNormal(mean=-0.5, std=0.7)(N).double())
    assert float(logits.mean()) == pytest.approx(-0.5, abs=0.01)
    assert float(logits.std()) == pytest.approx(0.7, abs=0.01)


@pytest.mark.parametrize(
    ("places", "quantiles"),
    [
        ((0.02, 0.98), [0.0149, 0.0236, 0.2868, 0.9779, 0.9959]),
        ((0.2, 1.0), [0.0408, 0.0655, 0.5087, 0.9889, 0.9975]),
    ],
)
def test_karras_steps_are_those_of_edm(places, quantiles):
    """Of t = 1 / (1 + σ), with σ^(1/7) uniform: DMD2's places and SiD's."""
    low, high = places
    expected = []
    for share in (0.01, 0.1, 0.5, 0.9, 0.99):
        place = low + share * (high - low)
        sigma = (80 ** (1 / 7) + place * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
        expected.append(1 / (1 + sigma))
    found = KarrasSteps(low, high)(N).quantile(torch.tensor([0.01, 0.1, 0.5, 0.9, 0.99])).tolist()
    assert found == pytest.approx(expected, rel=0.03)
    assert expected == pytest.approx(quantiles, rel=0.03)


@pytest.mark.parametrize("f", [1.0, 1.73, 6.93])
def test_shifts_f_and_1_over_f_are_inverse_and_leave_the_ends(f):
    times = torch.linspace(0, 1, 11)

    class Given(Uniform):
        def __call__(self, n, device="cpu"):
            return self.t

    inner = Given()
    inner.t = times
    moved = Shifted(inner, shift=f)(11)
    assert moved[0] == 0 and moved[-1] == 1 and bool((moved <= times).all())
    inner.t = moved
    torch.testing.assert_close(Shifted(inner, shift=1 / f)(11), times)
    torch.testing.assert_close(moved, torch.tensor(grids.Shifted(f)(10)))  # the solver's


@pytest.mark.parametrize(
    ("shape", "f"), [([768, 16, 16], 6.928), ([3, 64, 64], 1.732), ([3, 32, 32], 1.0), ([1, 8, 8], 1.0)]
)
def test_the_shift_of_a_shape_is_raes_and_at_least_1(shape, f):
    assert Shifted(shape=shape).factor == pytest.approx(f, abs=1e-3)


@pytest.mark.parametrize("arguments", [{}, {"shift": 2.0, "shape": [1, 8, 8]}])
def test_a_shift_is_given_once(arguments):
    with pytest.raises(FlowlitError, match="expected shift or shape"):
        Shifted(**arguments)
