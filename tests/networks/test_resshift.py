"""ResShift is the straight path from x0 = c + κ ε: its perfect network has that path's exact velocity."""

import numpy as np
import pytest
import torch
from restoration import SHAPE, Restoration
from tools import tiny_unet
from torch import nn

from flowlit.errors import FlowlitError
from flowlit.networks import ResShiftVelocity
from flowlit.networks.checkpoints.spec import build, spec
from flowlit.objectives import RectifiedFlow
from flowlit.objectives.times import DiffusionSteps as DrawnSteps
from flowlit.objectives.weights import Remaining
from flowlit.paths import ResShift, expand
from flowlit.solvers import Euler
from flowlit.solvers.grids import DiffusionSteps

KAPPA = 2.0
EXACT = Restoration(sigma=KAPPA, scale=1.0)
CHAINS = [ResShift(), ResShift(4, first=0.2), ResShift(6, power=0.5)]


class Perfect(nn.Module):
    """E[x | x_η, y] by the chain's own law: given y, x_η has mean (1 - η) m + η c, and x N(m, P)."""

    def __init__(self, chain, scale="latents"):
        super().__init__()
        self.chain, self.scale = chain, scale
        self.places = []

    def forward(self, state, place, cond):
        self.places.append(place)
        ratios = np.interp(place, np.arange(self.chain.steps), np.log(self.chain.ratios()))
        root = self.chain.root(torch.tensor(np.exp(ratios)))[:, None]
        eta = root**2
        size = {"latents": (1 + KAPPA**2 * eta).sqrt(), "pixels": 1 + 3 * KAPPA * root, "none": 1 + 0 * root}
        x = state * expand(size[self.scale], state)
        mean, image = EXACT.posterior(cond), cond["image"]
        away = x - expand(1 - eta, x) * mean - expand(eta, x) * image
        signal = (1 - eta) * EXACT.variances
        return mean + EXACT.along(away, signal / ((1 - eta) * signal + KAPPA**2 * eta))


def pair(rows):
    points = torch.randn(rows, 36, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return EXACT.draw(points)


@pytest.mark.parametrize("scale", ["latents", "pixels", "none"])
@pytest.mark.parametrize("chain", CHAINS, ids=repr)
def test_a_perfect_network_has_the_velocity_of_the_straight_path(chain, scale):
    t = torch.tensor(np.concatenate([chain.times(), np.linspace(chain.times()[-1], chain.times()[0], 9)]))
    data = pair(len(t))
    x_t = torch.lerp(data.x0, data.x1, expand(t, data.x0))
    network = Perfect(chain, scale)
    found = ResShiftVelocity(network, chain, scale)(x_t, t, data.cond)
    torch.testing.assert_close(found, EXACT(x_t, t, data.cond), rtol=1e-12, atol=1e-12)
    assert network.places[0][: chain.steps].tolist() == pytest.approx(list(range(chain.steps)), abs=1e-9)


def test_beyond_its_levels_the_nearest_is_asked():
    chain = ResShift()
    data = pair(2)
    network = Perfect(chain)
    velocity = ResShiftVelocity(network, chain)
    v = velocity(data.x0, torch.zeros(2, dtype=torch.float64), data.cond)
    assert network.places[0].tolist() == pytest.approx([14, 14])
    # its own chain starts so: κ √η ε around c
    start = data.cond["image"] + 0.99 * (data.x0 - data.cond["image"])
    shown = start / (1 + (KAPPA * 0.99) ** 2) ** 0.5
    torch.testing.assert_close(data.x0 + v, network(shown, network.places[0], data.cond))
    velocity(data.x1, torch.ones(2, dtype=torch.float64), data.cond)
    assert network.places[-1].tolist() == pytest.approx([0, 0])


@pytest.mark.parametrize("chain", CHAINS, ids=repr)
def test_sinsrs_step_is_one_euler_step(chain):
    """2311.14760, from x_η to η' < η, for any prediction; the last step has η' = 0 and returns it."""
    generator = torch.Generator().manual_seed(5)
    x, image, predicted = torch.randn(3, chain.steps, *SHAPE, generator=generator, dtype=torch.float64)
    here = expand(torch.tensor(chain.roots() ** 2), x)
    there = torch.cat([torch.zeros_like(here[:1]), here[:-1]])
    kept = (there / here).sqrt()
    both = (there * here).sqrt()
    stepped = (1 - there + both - kept) * predicted + kept * x + (there - both) * image

    times = torch.tensor(chain.times())
    t = expand(times, x)
    t_next = expand(torch.cat([torch.ones(1, dtype=torch.float64), times[:-1]]), x)
    x_t = image + t / (1 - here) * (x - image)
    euler = x_t + (t_next - t) * (predicted - x_t) / (1 - t)
    expected = image + t_next / (1 - there) * (stepped - image)
    torch.testing.assert_close(euler, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("chain", "shares"),
    [(ResShift(4, first=0.2), (0.17, 0.35, 0.42)), (ResShift(), (0.41, 0.67, 0.84))],
    ids=["4", "15"],
)
def test_few_steps_bring_a_part_of_the_posterior_variance(chain, shares):
    """Also with a perfect network: few steps lean towards the mean. x is N(0, P), and c = 0."""
    variances = torch.tensor([0.01, 0.1, 1.0], dtype=torch.float64).reshape(-1, 1, 1, 1)

    def velocity(x, t, cond={}):
        t = expand(t, x)
        return (t * variances - (1 - t) * KAPPA**2) / ((1 - t) ** 2 * KAPPA**2 + t**2 * variances) * x

    x0 = torch.full((3, 1, 1, 1), KAPPA, dtype=torch.float64)
    ends = Euler(chain.steps, grid=DiffusionSteps(chain))(velocity, x0).x1
    assert (ends**2 / variances).flatten().tolist() == pytest.approx(shares, abs=0.02)


def test_its_training_is_rectified_flow_at_its_steps():
    """With (1 - t)², the loss is the squared error of the predicted x."""
    chain = ResShift(4, first=0.2)
    network = Perfect(chain)
    objective = RectifiedFlow(times=DrawnSteps(chain), weight=Remaining())
    data = pair(5)
    torch.manual_seed(0)
    loss = objective(ResShiftVelocity(network, chain), data)["loss"]
    place = network.places[0].round().long()
    root = expand(torch.tensor(chain.roots())[place], data.x0)
    noise = data.x0 - data.cond["image"]
    x = data.x1 + root**2 * (data.cond["image"] - data.x1) + root * noise
    predicted = network(x / (1 + KAPPA**2 * root**2).sqrt(), place.double(), data.cond)
    torch.testing.assert_close(loss, (predicted - data.x1).square().mean(), rtol=1e-5, atol=0)


class Inside(nn.Module):
    spec = {"class_path": "flowlit.networks.UNet", "init_args": {}}
    shape, num_classes, reads = SHAPE, 0, frozenset({"image", "lr"})

    def forward(self, x, t, cond):
        return 0 * x


def test_it_reads_the_image_and_describes_itself():
    velocity = ResShiftVelocity(Inside(), ResShift(4, first=0.2), scale="pixels")
    assert velocity.reads == {"image", "lr"} and velocity.shape == SHAPE
    rebuilt = build(spec(ResShiftVelocity(tiny_unet(), ResShift(4, first=0.2), scale="pixels")), nn.Module)
    assert rebuilt.diffusion == velocity.diffusion and rebuilt.scale == "pixels"


@pytest.mark.parametrize("cond", [{}, {"image": torch.zeros(2, 1, 2, 2)}], ids=["none", "small"])
def test_without_an_image_of_its_size_it_says_so(cond):
    velocity = ResShiftVelocity(Inside(), ResShift())
    with pytest.raises(FlowlitError, match=r"expected cond\['image'\] \(2, 1, 4, 4\)"):
        velocity(torch.zeros(2, *SHAPE), torch.zeros(2), cond)


def test_precision_is_kept():
    velocity = ResShiftVelocity(Inside(), ResShift())
    x = torch.zeros(2, *SHAPE, dtype=torch.bfloat16)
    assert velocity(x, torch.rand(2), {"image": x}).dtype == torch.bfloat16


def test_pairs_of_the_chain_are_on_the_straight_path():
    chain = ResShift()
    data = pair(15)
    root = expand(torch.tensor(chain.roots()), data.x0)
    image = data.cond["image"]
    state = data.x1 + root**2 * (image - data.x1) + root * (data.x0 - image)
    t = torch.tensor(chain.times())
    straight = torch.lerp(data.x0, data.x1, expand(t, state))
    torch.testing.assert_close(
        image + expand(t, state) / (1 - root**2) * (state - image), straight, rtol=1e-12, atol=1e-12
    )
