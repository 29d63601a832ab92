"""Diffusions against their definitions: what a network is told belongs to the noise level that it sees."""

import math

import numpy as np
import pytest
import torch

from flowlit.errors import FlowlitError
from flowlit.paths import VE, ContinuousVP, DiscreteVE, DiscreteVP

EVERY = [
    DiscreteVP(),
    DiscreteVP(schedule="scaled_linear", beta_min=0.00085, beta_max=0.012),
    DiscreteVP(schedule="cosine"),
    ContinuousVP(),
    VE(),
    VE(conditioning="time"),
    VE(conditioning="log_sigma"),
    DiscreteVE(),
    DiscreteVE(descending=False),
]


@pytest.mark.parametrize("diffusion", EVERY, ids=repr)
def test_alpha_and_sigma(diffusion):
    ratio = torch.tensor([0.03, 1.0, 7.0], dtype=torch.float64)
    alpha = diffusion.alpha(ratio)
    total = alpha**2 + (alpha * ratio) ** 2
    assert torch.allclose(
        total if diffusion.preserves_variance else alpha, torch.ones(3, dtype=torch.float64)
    )


@pytest.mark.parametrize("diffusion", EVERY, ids=repr)
def test_what_is_told_moves_one_way(diffusion):
    low, high = diffusion.range
    told = diffusion.time_input(torch.tensor(np.geomspace(low, high, 50)).clamp(low, high))
    steps = told.diff()
    assert (steps > 0).all() or (steps < 0).all()


def test_ddpm_steps_are_told_as_they_are():
    betas = np.linspace(1e-4, 0.02, 1000)
    signal = np.cumprod(1 - betas)
    step = torch.tensor([0, 1, 500, 998, 999])
    ratio = torch.tensor(np.sqrt((1 - signal) / signal))[step]
    assert torch.allclose(DiscreteVP().time_input(ratio), step.double(), atol=1e-9)
    assert DiscreteVP(whole=True).time_input(ratio * 1.0001).tolist() == step.tolist()


def test_the_cosine_schedule_is_that_of_its_paper():
    def signal(i):
        return math.cos((i / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2

    ratios = DiscreteVP(schedule="cosine").ratios()
    expected = [math.sqrt((1 - s) / s) for s in (signal(i + 1) / signal(0) for i in range(900))]
    assert ratios[:900] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("tau", [1e-5, 1e-3, 0.3, 1.0])
def test_the_variance_preserving_sde_solves_its_integral(tau):
    grid = np.linspace(0, tau, 100_001)
    beta = 0.1 + grid * 19.9
    integral = float(((beta[1:] + beta[:-1]) / 2 * np.diff(grid)).sum())
    ratio = torch.tensor([math.sqrt(math.expm1(integral))], dtype=torch.float64)
    assert float(ContinuousVP().time_input(ratio)) / 999 == pytest.approx(tau, rel=1e-6)


def test_variance_exploding():
    ratio = torch.tensor([0.01, math.sqrt(0.5), 50.0], dtype=torch.float64)
    settings = {"sigma_min": 0.01, "sigma_max": 50.0}
    assert torch.equal(VE(**settings).time_input(ratio), ratio)
    assert torch.allclose(VE(**settings, conditioning="log_sigma").time_input(ratio), ratio.log())
    assert torch.allclose(
        VE(**settings, conditioning="time").time_input(ratio),
        torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64),
    )
    assert torch.allclose(
        DiscreteVE(1000).time_input(ratio), torch.tensor([999.0, 499.5, 0.0], dtype=torch.float64)
    )


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (DiscreteVP, {"steps": 1}),
        (DiscreteVP, {"beta_min": 0.0}),
        (ContinuousVP, {"beta_min": 3.0, "beta_max": 2.0}),
        (VE, {"sigma_min": 0.0}),
        (DiscreteVE, {"sigma_min": 60.0}),
    ],
    ids=str,
)
def test_nonsense_is_refused(kind, arguments):
    with pytest.raises(FlowlitError, match="expected"):
        kind(**arguments)
