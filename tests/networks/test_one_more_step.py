"""One More Step: the first step is another network's, whose closed form is the mean of the data."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest
import torch
from mixtures import SMOOTH
from tools import randomise, tiny_unet, write_checkpoint
from torch import nn

import flowlit
from flowlit._support.batch_invariance import BatchInvariant
from flowlit.data import Pixels
from flowlit.errors import FlowlitError
from flowlit.generators import Generator
from flowlit.generators.export.program import traced
from flowlit.networks import ClassifierFreeGuidance, DiffusionVelocity, OneMoreStep
from flowlit.networks.checkpoints.spec import build, spec
from flowlit.objectives import Distillation, RectifiedFlow
from flowlit.objectives.times import Grid
from flowlit.paths import DiscreteVP, expand
from flowlit.solvers import DEIS, DPMSolver, Euler, UniPC
from flowlit.solvers.base import march
from flowlit.solvers.grids import Given
from flowlit.solvers.runge_kutta import rk4_step
from flowlit.types import Pair

STABLE_DIFFUSION = DiscreteVP(1000, "scaled_linear", 0.00085, 0.012)
BEGIN = float(STABLE_DIFFUSION.times()[-1])
MEAN, STD = 20.0, 32.0
"""Of a low frequency of 64×64 latents: its trace in the noisiest level is as large as the noise."""


class Means(nn.Module):
    """The best first step: the mean of the data (of a class), less the noise."""

    reads: ClassVar = frozenset({"label"})

    def __init__(self, means):
        super().__init__()
        self.means = nn.Parameter(torch.as_tensor(means, dtype=torch.float64))

    def forward(self, x, t, cond={}):
        assert not t.any()
        mean = self.means[cond["label"]] if "label" in cond else self.means
        return mean.reshape(-1, *[1] * (x.ndim - 2), self.means.shape[-1]).to(x.dtype) - x


class Noise(nn.Module):
    """E[ε | α x1 + σ ε] for x1 ~ N(MEAN, STD²): the perfect network of a diffusion, on its levels alone."""

    def __init__(self):
        super().__init__()
        self.ratios = torch.as_tensor(STABLE_DIFFUSION.ratios()).log()

    def forward(self, noisy, step, cond={}):
        low = step.floor().long().clamp(max=len(self.ratios) - 2)
        ratio = torch.lerp(self.ratios[low], self.ratios[low + 1], step - low).exp()
        alpha = expand(STABLE_DIFFUSION.alpha(ratio), noisy)
        sigma = alpha * expand(ratio, noisy)
        return sigma * (noisy - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)


class Wrong(nn.Module):
    def forward(self, x, t, cond={}):
        raise AssertionError("this one should not have been called")


class Field(nn.Module):
    """A velocity in a module."""

    def __init__(self, field):
        super().__init__()
        self.field = field

    def forward(self, x, t, cond={}):
        return self.field(x, t, cond)


def test_it_takes_the_mean_to_the_mean_where_a_diffusion_alone_takes_it_beside():
    """In closed form: x̂ of pure noise, taken for the noisiest level, is drawn to 0 by the share of the data
    in that level, and the flow widens the mistake."""
    teacher = DiffusionVelocity(Noise(), STABLE_DIFFUSION)
    corrected = OneMoreStep(teacher, Means([MEAN]))
    assert corrected.until == pytest.approx(0.064, abs=5e-4)
    begin = BEGIN * (1 + 1e-6)
    times = [begin + (1 - begin) * (i / 60) ** 2 for i in range(61)]

    def end(velocity):  # of a flow that is affine: what is the mean of noise becomes that of images
        zero = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
        first = Euler(2, grid=Given([0.0, begin, 1.0]))
        seen = []
        first(velocity, zero, observe=lambda t, x, v: seen.append(x))
        return march(rk4_step, velocity, seen[1], times).x1.item()

    alpha = STABLE_DIFFUSION.alpha(torch.tensor(STABLE_DIFFUSION.range[1], dtype=torch.float64)).item()
    gain = alpha**2 * STD**2 / (alpha**2 * STD**2 + 1 - alpha**2)
    wider = STD / math.hypot(BEGIN * STD, 1 - BEGIN)
    assert end(teacher) == pytest.approx(MEAN - BEGIN * MEAN * gain * wider, rel=0.02)
    assert end(teacher) < 0.5 * MEAN
    assert end(corrected) == pytest.approx(MEAN, rel=0.005)


@pytest.mark.parametrize("kind", [DPMSolver, UniPC, DEIS])
def test_with_the_mean_as_first_it_is_the_analytic_first_step(kind):
    means = SMOOTH.means.mean(0)
    x = SMOOTH.start().reshape(-1, 1, 1, 2)
    learned = kind(5)(OneMoreStep(Field(SMOOTH), Means(means), until=0.01), x).x1
    assert torch.allclose(learned, kind(5)(SMOOTH, x).x1, rtol=0, atol=1e-13), "of a 1-rectified flow, exact"
    channels = x.reshape(-1, 2, 1, 1)
    field = lambda x, t, cond={}: SMOOTH(x.reshape(-1, 1, 1, 2), t).reshape(x.shape)  # noqa: E731
    spared = kind(5, mean=means.tolist())(field, channels).x1
    assert torch.allclose(learned, spared.reshape(learned.shape), rtol=0, atol=1e-13)


def test_from_its_time_on_the_network_is_untouched():
    network = randomise(tiny_unet()).eval()
    x = torch.randn(5, 1, 8, 8)
    t = torch.tensor([0.25, 0.3, 0.5, 0.9, 1.0])
    with torch.no_grad():
        assert torch.equal(OneMoreStep(network, Wrong(), until=0.25)(x, t), network(x, t))
        early = OneMoreStep(Wrong(), network, until=1.0)(x[:4], t[:4])
    assert torch.allclose(early, network(x[:4], torch.zeros(4)) / expand(1 - t[:4], x[:4]))


def test_rows_of_both_kinds_go_each_to_its_own_to_the_bit():
    network, first = randomise(tiny_unet(num_classes=3)).eval(), randomise(tiny_unet(num_classes=3), 1).eval()
    both = OneMoreStep(network, first, until=0.5)
    x, label = torch.randn(20, 1, 8, 8), torch.arange(20) % 3
    t = torch.linspace(0, 1, 20)[torch.randperm(20, generator=torch.Generator().manual_seed(0))]
    with torch.no_grad():
        together = BatchInvariant(both)(x, t, {"label": label})
        rows = [slice(i, i + 1) for i in range(20)]
        alone = torch.cat([BatchInvariant(both)(x[i], t[i], {"label": label[i]}) for i in rows])
    assert torch.equal(together, alone)


def test_a_first_step_without_classes_gets_no_label_and_guidance_counts():
    network = randomise(tiny_unet(num_classes=3, label_dropout=0.1)).eval()
    first = randomise(tiny_unet(), 1).eval()
    x, cond = torch.randn(2, 1, 8, 8), {"label": torch.tensor([0, 2])}
    step = OneMoreStep(ClassifierFreeGuidance(network, 2.0), first, until=0.1)
    assert step.evaluations == 2 and OneMoreStep(network, first, until=0.1).evaluations == 1
    with torch.no_grad():
        assert torch.equal(step(x, torch.zeros(2), cond), first(x, torch.zeros(2)))
        outside = ClassifierFreeGuidance(OneMoreStep(network, first, until=0.1), 2.0)
        assert torch.allclose(outside(x, torch.zeros(2), cond), first(x, torch.zeros(2)), atol=1e-6)
        assert torch.equal(outside(x, torch.ones(2), cond), step(x, torch.ones(2), cond))


@pytest.mark.parametrize("objective", [RectifiedFlow(times=Grid(1)), Distillation()], ids=["flow", "distill"])
def test_what_trains_it_is_least_at_the_means_of_the_classes(objective):
    draws = torch.Generator().manual_seed(0)
    x0, x1 = torch.randn(2, 60, 1, 1, 2, generator=draws, dtype=torch.float64)
    label = torch.arange(60) % 3
    means = torch.stack([x1[label == k].mean(0).flatten() for k in range(3)])
    best = Means(means)
    loss = objective(best, Pair(x0, x1, {"label": label}))["loss"]
    loss.backward()
    assert best.means.grad.abs().max() < 1e-12, "whatever the noise is"
    assert float(loss.detach()) == pytest.approx(float((x1.flatten(1) - means[label]).square().mean()))


def test_a_checkpoint_describes_both(tmp_path):
    both = OneMoreStep(randomise(tiny_unet()), randomise(tiny_unet(), 1), until=0.1).eval()
    again = build(spec(both), nn.Module)
    again.load_state_dict(both.state_dict())
    x = torch.randn(2, 1, 8, 8)
    path = write_checkpoint(tmp_path / "c.ckpt", both, solver=spec(Euler(2)), codec=None)
    with torch.no_grad():
        assert torch.equal(again.eval()(x, torch.zeros(2)), both(x, torch.zeros(2)))
        assert torch.equal(flowlit.load(path, "raw").network(x, torch.zeros(2)), both(x, torch.zeros(2)))
    assert spec(OneMoreStep(tiny_unet(), Wrong(), until=0.1)) is None


@pytest.mark.slow
def test_a_graph_of_it_makes_the_same_images():
    both = OneMoreStep(randomise(tiny_unet()), randomise(tiny_unet(), 1), until=0.1).eval()
    generator = Generator(both, Euler(3), Pixels())
    x0 = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found, *_ = traced(generator).module()(x0)
    expected = generator(x0)
    assert (found.int() - expected.int()).abs().max() <= 1
    plain = Generator(both.network, Euler(3), Pixels())(x0)
    assert (plain.int() - expected.int()).abs().max() > 10


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OneMoreStep(tiny_unet(), tiny_unet()), "UNet has no noisiest level; give until"),
        (lambda: OneMoreStep(tiny_unet(), tiny_unet(), 0.0), "until is 0"),
        (lambda: OneMoreStep(tiny_unet(), tiny_unet(in_channels=3), 0.1), r"first takes.*\(3, 8, 8\)"),
        (
            lambda: OneMoreStep(tiny_unet(), tiny_unet(num_classes=3), 0.1),
            "first knows 3 classes; expected those of the network, 0, or none",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(FlowlitError, match=message):
        make()
