"""Grids that end before t = 1: which may, what solvers make of them, and for which codecs."""

from __future__ import annotations

import pytest
import torch
from exact_flows import start
from mixtures import SMOOTH
from tools import tiny_unet

from flowlit.data import Patches, Pixels
from flowlit.errors import FlowlitError
from flowlit.generators import Generator
from flowlit.modules import Teacher
from flowlit.networks.checkpoints.spec import build, spec
from flowlit.objectives.flow_maps import OnTrajectories
from flowlit.paths import VE, DiscreteVP
from flowlit.solvers import (
    DEIS,
    RK4,
    Adams,
    DPMSolver,
    Euler,
    Heun,
    Jumps,
    ReNoise,
    RhoRK,
    SinglestepDPMSolver,
    UniPC,
)
from flowlit.solvers.grids import EarlyStop, FScheduler, Given, Sine
from flowlit.types import Solver

STABLE_DIFFUSION = DiscreteVP(1000, "scaled_linear", 0.00085, 0.012)
KINDS = [Euler, Heun, RK4, Adams, DPMSolver, UniPC, DEIS, RhoRK]
X1 = torch.tensor([0.5, -1.0]).reshape(1, 1, 1, 2).double()


class Smoothing(Pixels):
    """Stands for an autoencoder of latents."""

    forgives_noise = True


@pytest.mark.parametrize(
    ("arguments", "steps", "expected"),
    [
        ((8, 5.0, 6), 6, [0.158, 0.284, 0.419, 0.554, 0.696, 0.883]),
        ((8, 5.0, 6), 5, [0.181, 0.338, 0.500, 0.666, 0.883]),
        ((12, 7.0, 9), 8, [0.130, 0.217, 0.315, 0.416, 0.516, 0.618, 0.729, 0.872]),
    ],
)
def test_f_schedulers_times_are_those_of_its_paper_on_the_straight_path(arguments, steps, expected):
    times = FScheduler(STABLE_DIFFUSION, *arguments)(steps)
    assert times[0] == 0 and times[1:] == pytest.approx(expected, abs=6e-4)
    finished = FScheduler(STABLE_DIFFUSION, *arguments, finish=True)
    assert finished(steps + 1) == [*times, 1.0] and not finished.stops_early


def test_an_early_stop_shortens_a_grid():
    assert EarlyStop(0.8)(4) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    assert EarlyStop(0.5, Sine())(2) == pytest.approx([0, 0.25, 0.5])


@pytest.mark.parametrize("kind", KINDS)
def test_the_end_is_data_with_the_noise_that_is_left(kind):
    """On lines from noise to x1 all solvers are exact: x_t / t = x1 + (1 - t) / t · noise."""
    x0 = start(4)[..., :1, :2].double()
    line = lambda x, t, cond: X1 - x0  # noqa: E731
    solution = kind(5, grid=EarlyStop(0.8))(line, x0)
    assert torch.allclose(solution.x1, X1 + 0.25 * x0, rtol=0, atol=1e-12)
    more = 2 if kind is RhoRK else 0  # its last step is no longer Euler's
    assert torch.equal(solution.nfe, kind(5)(line, x0).nfe + more)


def test_the_times_are_kept_with_both_ends_of_the_solver_order():
    exact = RK4(200, grid=EarlyStop(0.85))(SMOOTH, SMOOTH.start()).x1
    errors = []
    for steps in (8, 16, 32):
        end = UniPC(steps, order=2, grid=EarlyStop(0.85, Sine()))(SMOOTH, SMOOTH.start()).x1
        errors.append(float((end - exact).square().mean().sqrt()))
    assert errors[2] < errors[1] / 3 < errors[0] / 9


def test_renoising_keeps_its_scale():
    x0 = start(4)
    end = ReNoise(4, fresh=False, grid=EarlyStop(0.8))(lambda x, t, cond: 1 - x0, x0).x1
    assert torch.allclose(end, 1 + 0.25 * x0, rtol=0, atol=1e-6)


# refusals


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EarlyStop(1.0), "expected an end below 1 of a grid that goes to 1"),
        (lambda: EarlyStop(0.9, EarlyStop(0.9)), "expected an end below 1 of a grid that goes to 1"),
        (lambda: EarlyStop(0.0), "end is 0"),
        (lambda: Euler(2, grid=EarlyStop(0.9, Given([0, 0.5, 0.9]))), "from 0 .noise. to 1 .data."),
        (lambda: Euler(2, grid=EarlyStop(0.9, Given([0, 1]))), "make 1 steps, found steps=2"),
        (lambda: Euler(2, grid=Given([0, 0.5, 0.9])), "from 0 .noise. to 1 .data."),
        (lambda: FScheduler(STABLE_DIFFUSION, 8, 5.0, 7), "level is 7; expected 1 to 6, as levels is 8"),
        (lambda: FScheduler(STABLE_DIFFUSION, 2, 5.0, 1), "level is 1; expected"),
        (lambda: FScheduler(STABLE_DIFFUSION, finish=True)(1), "a single step goes from noise to data"),
        (lambda: SinglestepDPMSolver(4, grid=EarlyStop(0.9)), "from 0 .noise. to 1 .data."),
        (lambda: Jumps(2, renoise=True, grid=EarlyStop(0.9)), "jumps to t = 1, where EarlyStop"),
        (lambda: OnTrajectories(tiny_unet(), Heun(2, grid=EarlyStop(0.9))), "stops before t = 1"),
        (lambda: Euler(2, grid=EarlyStop(0.9))(SMOOTH, SMOOTH.start(), reverse=True), "reverse; use RK45"),
        (lambda: FScheduler(VE()), "diffusion is VE"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(FlowlitError, match=message):
        made = make()
        if isinstance(made, Jumps):
            made(lambda x, t, cond: x, start(2))


def test_a_codec_that_does_not_forgive_noise_refuses_it():
    early = {"few": Euler(4, grid=EarlyStop(0.9))}
    for codec in (Pixels(), Patches()):
        for make in (
            lambda codec: Teacher(tiny_unet(), solvers=early, codec=codec),
            lambda codec: Generator(tiny_unet(), early["few"], codec),
        ):
            with pytest.raises(FlowlitError, match=r"stops before t = 1, and \w+ would show.*finish: true"):
                make(codec)
            make(Smoothing())
    finished = FScheduler(STABLE_DIFFUSION, finish=True)
    assert Generator(tiny_unet(), Euler(5, grid=finished), Pixels()).sample(2).shape == (2, 1, 8, 8)


@pytest.mark.parametrize("grid", [EarlyStop(0.9, Sine()), FScheduler(STABLE_DIFFUSION)], ids=["stop", "f"])
def test_they_survive_their_description(grid):
    assert build(spec(Euler(4, grid=grid)), Solver) == Euler(4, grid=grid)
