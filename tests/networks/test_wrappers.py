"""Velocities of other parameterisations: perfect predictors of a Gaussian give its exact velocity, and arrive
where it does.
"""

import itertools

import pytest
import torch
from tools import randomise, tiny_unet
from torch import nn

from flowlit._support.batch_invariance import BatchInvariant
from flowlit.errors import FlowlitError
from flowlit.networks import EDM, ClassifierFreeGuidance, DiffusionVelocity
from flowlit.networks.checkpoints.fingerprint import identity
from flowlit.networks.checkpoints.spec import build, spec
from flowlit.paths import VE, ContinuousVP, DiscreteVE, DiscreteVP, expand
from flowlit.solvers import RK45, EDMHeun, Euler

MEAN, STD = 0.3, 0.7
SHAPE = (1, 4, 4)

DIFFUSIONS = [
    DiscreteVP(),
    DiscreteVP(schedule="cosine"),
    ContinuousVP(),
    VE(),
    VE(conditioning="time"),
    DiscreteVE(),
]
CASES = [(d, p) for d in DIFFUSIONS for p in ("epsilon", "x0", "v") if p != "v" or d.preserves_variance]


def believed(x, t):
    """E[x1 | x_t] and E[x0 | x_t] for x1 ~ N(MEAN, STD²)."""
    t = expand(t, x).to(x.dtype)
    away = (x - t * MEAN) / ((1 - t) ** 2 + t**2 * STD**2)
    return MEAN + STD**2 * t * away, (1 - t) * away


def exact(x, t, cond={}):
    data, noise = believed(x, t)
    return data - noise


class Perfect(nn.Module):
    """The best predictor there is; it is told a time, and finds the noise level back by itself."""

    def __init__(self, diffusion, predicts):
        super().__init__()
        self.diffusion, self.predicts = diffusion, predicts
        low, high = diffusion.range
        self.levels = torch.logspace(
            torch.log10(torch.tensor(low)), torch.log10(torch.tensor(high)), 40_001, dtype=torch.float64
        )
        self.levels = self.levels.clamp(low, high)
        self.told = diffusion.time_input(self.levels)

    def level(self, tau):
        order = self.told.argsort()
        told, logs = self.told[order], self.levels.log()[order]
        i = torch.searchsorted(told, tau.double()).clamp(1, len(told) - 1)
        share = (tau - told[i - 1]) / (told[i] - told[i - 1])
        return (logs[i - 1] + share * (logs[i] - logs[i - 1])).exp()

    def forward(self, noisy, tau, cond):
        ratio = self.level(tau)
        alpha = expand(self.diffusion.alpha(ratio), noisy)
        sigma = alpha * expand(ratio, noisy)
        data = (MEAN * sigma**2 + STD**2 * alpha * noisy) / (sigma**2 + STD**2 * alpha**2)
        noise = (noisy - alpha * data) / sigma
        return {"x0": data, "epsilon": noise, "v": alpha * noise - sigma * data}[self.predicts]


class Knowing(nn.Module):
    """Answers with the very data and noise that it was shown a mixture of."""

    def __init__(self, data, noise, diffusion, predicts, t):
        super().__init__()
        self.data, self.noise, self.predicts = data, noise, predicts
        ratio = ((1 - t) / t).clamp(*diffusion.range)
        self.alpha = expand(diffusion.alpha(ratio), data)
        self.sigma = self.alpha * expand(ratio, data)

    def forward(self, noisy, tau, cond):
        assert torch.allclose(noisy, self.alpha * self.data + self.sigma * self.noise, atol=1e-9)
        v = self.alpha * self.noise - self.sigma * self.data
        return {"x0": self.data, "epsilon": self.noise, "v": v}[self.predicts]


def inner_times(diffusion, num=64):
    low, high = diffusion.range
    return torch.linspace(1 / (1 + high) + 1e-6, 1 / (1 + low) - 1e-6, num, dtype=torch.float64)


@pytest.mark.parametrize(("diffusion", "predicts"), CASES, ids=str)
def test_a_perfect_prediction_gives_data_minus_noise(diffusion, predicts):
    t = inner_times(diffusion)
    data, noise = torch.randn(2, len(t), *SHAPE, dtype=torch.float64)
    x = expand(t, data) * data + (1 - expand(t, data)) * noise
    velocity = DiffusionVelocity(Knowing(data, noise, diffusion, predicts, t), diffusion, predicts)
    assert (velocity(x, t) - (data - noise)).abs().max() < 1e-9


@pytest.mark.parametrize(("diffusion", "predicts"), CASES, ids=str)
def test_the_network_is_told_the_level_that_it_sees(diffusion, predicts):
    t = inner_times(diffusion)
    x = torch.randn(len(t), *SHAPE, dtype=torch.float64)
    velocity = DiffusionVelocity(Perfect(diffusion, predicts), diffusion, predicts)
    assert (velocity(x, t) - exact(x, t)).abs().max() < 1e-5, "but for interpolation"


@pytest.mark.parametrize(("diffusion", "predicts"), CASES, ids=str)
def test_the_ends_are_finite_and_near(diffusion, predicts):
    x = torch.randn(32, *SHAPE)
    velocity = DiffusionVelocity(Perfect(diffusion, predicts), diffusion, predicts)
    for t in (0.0, 1.0):
        times = torch.full((len(x),), t)
        found = velocity(x.requires_grad_(), times)
        (slope,) = torch.autograd.grad(found.sum(), x)
        assert slope.isfinite().all(), "0 / 0 in a branch that is not taken must not reach the gradient"
        assert (found - exact(x, times)).abs().max() < 0.1


@pytest.mark.parametrize(("diffusion", "predicts"), CASES, ids=str)
def test_integrated_end_to_end(diffusion, predicts):
    x0 = torch.randn(16, *SHAPE)
    velocity = DiffusionVelocity(Perfect(diffusion, predicts), diffusion, predicts)
    found = RK45(rtol=1e-5, atol=1e-5)(velocity, x0).x1
    assert (found - (MEAN + STD * x0)).abs().max() < 0.06, "but for the levels beyond the first and last"
    assert (found - RK45(1e-5, 1e-5)(exact, x0).x1).abs().mean() < 0.02


def test_v_needs_preserved_variance():
    with pytest.raises(FlowlitError, match="variance-preserving"):
        DiffusionVelocity(nn.Identity(), VE(), "v")


def test_an_unknown_prediction():
    with pytest.raises(FlowlitError, match="expected 'epsilon', 'x0' or 'v'"):
        DiffusionVelocity(nn.Identity(), VE(), "eps")


# -- EDM


def edm(**changes):
    inside = randomise(tiny_unet(num_classes=3, time_scale=1.0, early_label=True, **changes)).eval()
    return EDM(inside)


def batch(num=32, low=0.0, high=1.0):
    t = torch.linspace(low, high, num)
    return torch.randn(num, 1, 8, 8), t, {"label": torch.arange(num) % 3}


def test_edm_is_the_preconditioned_denoiser_of_its_paper():
    network = edm().double()
    y, sigma, cond = batch()[0].double(), torch.logspace(-2.6, 1.9, 32, dtype=torch.float64), batch()[2]
    s, level = 0.5, expand(sigma, y)
    prediction = network.network(y / (level**2 + s**2).sqrt(), sigma.log() / 4, cond)
    expected = s**2 / (level**2 + s**2) * y + level * s / (level**2 + s**2).sqrt() * prediction
    assert torch.allclose(network.denoiser(y, sigma, cond), expected)


def test_edm_velocity_is_that_of_its_denoiser():
    network = edm().double()
    x, t, cond = batch(low=1 / 81, high=1 / 1.002)
    x, t = x.double(), t.double()
    t_ = expand(t, x)
    expected = (network.denoiser(x / t_, (1 - t) / t, cond) - x) / (1 - t_)
    assert (network(x, t, cond) - expected).abs().max() < 1e-6  # the network's embedding computes in float32


def test_edm_velocity_agrees_with_the_general_adapter():
    network = edm().double()

    class Denoiser(nn.Module):
        def forward(self, y, sigma, cond):
            return network.denoiser(y, sigma, cond)

    x, t, cond = batch(low=0.0124, high=0.997)
    general = DiffusionVelocity(Denoiser(), VE(), "x0")
    assert torch.allclose(
        network(x.double(), t.double(), cond), general(x.double(), t.double(), cond), atol=1e-6
    )


def test_edm_velocity_has_no_pole():
    network = edm()
    x, t, cond = batch()
    found = network(x.requires_grad_(), t, cond)
    found.sum().backward()
    assert found.isfinite().all() and x.grad.isfinite().all()
    near = network(x.detach(), (t * (1 - 2e-4) + 1e-4), cond)
    assert (found - near).abs().max() < 0.05 * found.abs().max()


def test_one_number_is_a_noise_level_too():
    network, (y, _, cond) = edm(), batch(4)
    assert torch.equal(network.denoiser(y, 2.0, cond), network.denoiser(y, torch.full((4,), 2.0), cond))


def test_edm_tells_what_its_network_tells():
    network = edm(label_dropout=0.1)
    assert (network.shape, network.num_classes, network.label_dropout) == ((1, 8, 8), 3, 0.1)
    network.network.loaded = {"file": "x"}
    assert network.loaded == {"file": "x"}
    network.loaded = None
    assert network.network.loaded is None


def test_wrappers_are_rebuilt_from_their_description():
    inner = tiny_unet(num_classes=3, label_dropout=0.1)
    for network in (
        edm(),
        ClassifierFreeGuidance(inner, 2.0),
        DiffusionVelocity(inner, DiscreteVP(schedule="cosine"), "v"),
    ):
        again = build(spec(network), nn.Module)
        again.load_state_dict(network.state_dict())
        x, t, cond = batch(8, 0.1, 0.9)
        assert torch.equal(again.eval()(x, t, cond), network.eval()(x, t, cond))


def test_nonsense_around_edm_is_refused():
    with pytest.raises(FlowlitError, match="sigma_min < sigma_max"):
        EDM(tiny_unet(), sigma_min=1.0, sigma_max=0.5)


# -- guidance


class Labelled(nn.Module):
    def forward(self, x, t, cond={}):
        return torch.full_like(x, 1.0) * (3.0 + expand(cond["label"], x) if "label" in cond else 1.0)


@pytest.mark.parametrize(("scale", "expected"), [(0.0, 1.0), (1.0, 5.0), (2.5, 11.0)])
def test_guidance_goes_through_and_beyond(scale, expected):
    x = torch.zeros(2, *SHAPE)
    guided = ClassifierFreeGuidance(Labelled(), scale)
    assert torch.allclose(
        guided(x, torch.zeros(2), {"label": torch.tensor([2, 2])}), torch.full_like(x, expected)
    )


def test_guidance_costs_twice_the_evaluations():
    x0, cond = torch.zeros(20, *SHAPE), {"label": torch.zeros(20, dtype=torch.int64)}
    guided = ClassifierFreeGuidance(Labelled(), 2.0)
    assert Euler(5)(guided, x0, cond).nfe.tolist() == [10] * 20
    assert Euler(5)(BatchInvariant(guided), x0, cond).nfe.tolist() == [10] * 20
    assert Euler(5)(Labelled(), x0, cond).nfe.tolist() == [5] * 20


def test_guidance_without_a_condition_is_refused():
    with pytest.raises(FlowlitError, match="cond is empty"):
        ClassifierFreeGuidance(Labelled(), 2.0)(torch.zeros(2, *SHAPE), torch.zeros(2))


def test_guidance_of_a_network_that_needs_its_label_is_refused():
    with pytest.raises(FlowlitError, match="label_dropout"):
        ClassifierFreeGuidance(tiny_unet(num_classes=3), 2.0)


def test_two_scales_are_two_identities():
    inner = tiny_unet(num_classes=3, label_dropout=0.1)
    assert identity(ClassifierFreeGuidance(inner, 2.0)) != identity(ClassifierFreeGuidance(inner, 3.0))


# -- EDM's sampler


def test_edm_heun_converges_with_order_two():
    x0 = torch.randn(8, *SHAPE, dtype=torch.float64)
    arrived = (
        MEAN + (80 * x0 - MEAN) * STD / (80**2 + STD**2) ** 0.5
    )  # dy/dσ = (y - D) / σ, solved from y = 80 x0
    errors = [float((EDMHeun(steps)(exact, x0).x1 - arrived).abs().max()) for steps in (64, 128, 256)]
    assert 3.5 < errors[0] / errors[1] < 4.6 and 3.5 < errors[1] / errors[2] < 4.6


def test_edm_heun_counts():
    x0 = torch.randn(3, *SHAPE)
    assert EDMHeun(18)(exact, x0).nfe.tolist() == [35] * 3
    assert EDMHeun(1)(exact, x0).nfe.tolist() == [1] * 3


def test_edm_heun_is_algorithm_1_on_a_denoiser():
    """The paper's loop, on y and σ, with D asked directly."""

    def denoiser(y, sigma):
        return (MEAN * sigma**2 + STD**2 * y) / (sigma**2 + STD**2)

    x0, steps = torch.randn(4, *SHAPE, dtype=torch.float64), 18
    i = torch.arange(steps, dtype=torch.float64)
    levels = [
        *((80 ** (1 / 7) + i / (steps - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7),
        torch.tensor(0.0),
    ]
    y = x0 * levels[0]
    for a, b in itertools.pairwise(levels):
        d = (y - denoiser(y, a)) / a
        ahead = y + (b - a) * d
        y = ahead if b == 0 else y + (b - a) * (d + (ahead - denoiser(ahead, b)) / b) / 2
    assert (EDMHeun(steps)(exact, x0).x1 - y).abs().max() < 1e-6  # times reach a network as float32


def test_edm_heun_shows_its_steps():
    seen = []
    EDMHeun(6)(
        exact,
        torch.randn(2, *SHAPE),
        observe=lambda t, x, v: seen.append((float(t[0]), float((v - exact(x, t)).abs().max()))),
    )
    assert len(seen) == 6 and seen[0][0] == pytest.approx(1 / 81) and all(error < 1e-5 for _, error in seen)
    assert [t for t, _ in seen] == sorted(t for t, _ in seen)


def test_edm_heun_does_not_run_backwards():
    with pytest.raises(FlowlitError, match="reverse"):
        EDMHeun(4)(exact, torch.zeros(1, *SHAPE), reverse=True)


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"sigma_min": 0.0}, {"sigma_min": 100.0}, {"rho": 0.0}], ids=str
)
def test_edm_heun_refuses_nonsense(wrong):
    with pytest.raises(FlowlitError, match="EDMHeun"):
        EDMHeun(**wrong)(exact, torch.zeros(1, *SHAPE))
