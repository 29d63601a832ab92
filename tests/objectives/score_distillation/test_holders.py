"""Score distillation in training: who gets gradients, what weighs, and where the generator ends."""

from copy import deepcopy

import pytest
import tiny
import torch
from torch.optim import SGD, Adam

from flowlit import rng
from flowlit.callbacks import EMA, LossOverTime
from flowlit.couplings import Independent
from flowlit.data import Digits
from flowlit.errors import FlowlitError
from flowlit.modules import Critic, CriticModule, FlowDataModule, FlowModule
from flowlit.networks import EmpiricalFlow
from flowlit.objectives import Combined, CombinedGame, Distillation, RectifiedFlow
from flowlit.objectives.distances import PseudoHuber, SquaredError
from flowlit.objectives.score_distillation import (
    DMD,
    DMD2,
    SIM,
    UID,
    DiffInstruct,
    ReverseKL,
    ScoreIdentity,
    SiD,
)
from flowlit.objectives.times import Fixed, Uniform
from flowlit.objectives.weights import Powers
from flowlit.types import Pair

ALL = [DMD, DMD2, DiffInstruct, SiD, SIM, UID, ReverseKL, ScoreIdentity]


def networks():
    torch.manual_seed(0)
    return [tiny.Affine().double() for _ in range(3)]


def pair(rows=6):
    torch.manual_seed(1)
    return Pair(*torch.randn(2, rows, *tiny.SHAPE, dtype=torch.float64))


@pytest.mark.parametrize("kind", ALL)
def test_the_generator_alone_gets_gradients(kind):
    generator, critic, guide = networks()
    critic.requires_grad_(False)  # as in the generator's turn
    kind(guide).student_loss(generator, critic, pair())["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in generator.parameters())
    assert all(p.grad is None for network in (critic, guide) for p in network.parameters())


@pytest.mark.parametrize("kind", ALL)
def test_the_critic_alone_gets_gradients(kind):
    generator, critic, guide = networks()
    kind(guide).critic_loss(generator, critic, pair())["loss"].backward()
    assert all(p.grad is not None for p in critic.parameters())
    assert all(p.grad is None for network in (generator, guide) for p in network.parameters())


def losses(objective, generator, critic):
    """The generator's loss, with the same times and noise each time."""
    torch.manual_seed(5)
    return objective.student_loss(generator, critic, pair())["loss"]


@pytest.mark.parametrize("t", [0.1, 0.7])
def test_the_normaliser_is_that_of_denoisers(t):
    """DMD's (f_ψ - f_φ) / mean|x - f_φ| is y / mean|u - v_φ|; SiD's has one factor 1 - t more."""
    guide = networks()[2]
    for normalise, power, expected in [(True, 0, 1.0), (True, 1, 1 - t), (False, 1, 1 - t)]:
        weights = ReverseKL(guide, Fixed(t), Powers(0, power), normalise=normalise).weights
        residual = torch.randn(4, *tiny.SHAPE, dtype=torch.float64)
        found = weights(torch.full((4,), t, dtype=torch.float64), residual)
        mean = residual.abs().mean((1, 2, 3)) if normalise else torch.ones(4, dtype=torch.float64)
        torch.testing.assert_close(found, expected / mean)


def test_a_guide_without_error_does_not_divide_by_zero():
    weights = DMD(networks()[2]).weights(torch.full((2,), 0.9), torch.zeros(2, *tiny.SHAPE))
    assert weights.tolist() == pytest.approx([1e6, 1e6])


def test_alpha_is_sids():
    guide = networks()[2]
    assert [SiD(guide, alpha).correction for alpha in (0.5, 1.0, 1.2)] == pytest.approx([1.0, 0.0, -0.4])
    assert (SIM(guide).correction, UID(guide).correction) == (0.0, 1.0)


def test_the_critic_follows_samples_at_its_own_times():
    _, critic, guide = networks()
    batch = pair()
    ours = DMD(guide)
    ours.flow_matching = RectifiedFlow(times=Fixed(0.5))
    torch.manual_seed(3)
    loss = ours.critic_sample_loss(batch.x1, critic, batch)["loss"]
    torch.manual_seed(3)
    noise = rng.randn_like(batch.x1)
    u = batch.x1 - noise
    expected = (critic((noise + batch.x1) / 2, torch.full((6,), 0.5).double(), {}) - u).square().mean()
    torch.testing.assert_close(loss, expected)


def test_critic_times_are_those_of_the_comparison_unless_given():
    guide = networks()[2]
    assert DMD(guide).flow_matching.times == Uniform(0.02, 0.98)
    assert DMD2(guide).flow_matching.times != DMD2(guide).times


def test_parts_of_a_game_share_samples_and_are_weighted():
    """And plain objectives are anchors, on stored pairs."""
    generator, critic, guide = networks()
    parts = {"kl": DMD(guide), "identity": ScoreIdentity(guide), "regression": Distillation()}
    game = CombinedGame(parts, {"identity": 0.5, "regression": 0.25})
    before = int(generator.calls)
    torch.manual_seed(5)
    found = game.student_loss(generator, critic, pair())
    assert int(generator.calls) - before == 2  # samples, and the anchor's own
    total = found["kl"] + 0.5 * found["identity"] + 0.25 * found["regression"]
    torch.testing.assert_close(found["loss"], total)
    torch.testing.assert_close(found["kl"], losses(parts["kl"], generator, critic))
    torch.manual_seed(5)
    assert set(game.critic_loss(generator, critic, pair())) == {"loss", "kl", "identity"}


def test_a_game_without_an_objective_of_samples_is_refused():
    with pytest.raises(FlowlitError, match=r"CombinedGame: \['a'\] need no critic; expected an objective"):
        CombinedGame({"a": Distillation()})


def test_a_single_network_cannot_play(tmp_path):
    with pytest.raises(FlowlitError, match=r"DMD trains a generator and a critic; expected .*CriticModule"):
        fit(tmp_path, FlowModule(tiny.Affine(), DMD(tiny.Affine())))
    with pytest.raises(FlowlitError, match="DMD trains a generator and a critic"):
        Combined({"kl": DMD(tiny.Affine())})(tiny.Affine(), Pair(*(x.float() for x in pair()[:2])))


def fit(tmp_path, module, steps=3, callbacks=()):
    batches = FlowDataModule(Independent(Digits(labels=False)), batch_size=8, seed=1)
    trainer = tiny.trainer(tmp_path, steps, callbacks, limit_val_batches=0)
    trainer.fit(module, datamodule=batches)
    return trainer


@pytest.mark.parametrize("objective", [DMD, UID, lambda guide: CombinedGame({"kl": SiD(guide)})])
def test_they_train_in_a_module_of_two(tmp_path, objective):
    torch.manual_seed(0)
    guide = tiny.Affine()
    before = deepcopy(guide.state_dict())
    critic = Critic(tiny.Affine(), optimizer=lambda p: Adam(p, lr=1e-2), updates=2)
    module = CriticModule(tiny.Affine(), objective(guide), critic, optimizer=lambda p: SGD(p, lr=0.05))
    trainer = fit(tmp_path, module, 3, [EMA(0.5), LossOverTime()])
    before["calls"] = guide.state_dict()["calls"]
    assert tiny.same(before, guide.state_dict())
    assert {"train/loss", "train/critic_loss"} <= trainer.logged_metrics.keys()
    assert not any("guide" in key for key in module.state_dict())


class Scale(torch.nn.Module):
    """The velocity whose jump from noise z is a z + b, for entries of its own."""

    def __init__(self, scale=1.5, shift=0.7):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(scale))
        self.shift = torch.nn.Parameter(torch.tensor(shift))

    def forward(self, x, t, cond={}):
        return (self.scale - 1) * x + self.shift


class Closed(torch.nn.Module):
    """The exact velocity of a generator's samples a z + b."""

    def __init__(self, generator):
        super().__init__()
        self.generator = [generator]

    def forward(self, x, t, cond={}):
        a, b = (value.detach() for value in self.generator[0].parameters())
        t = t.reshape(-1, 1, 1, 1)
        return b + (t * a**2 - (1 - t)) / ((1 - t) ** 2 + (t * a) ** 2) * (x - t * b)


@pytest.mark.parametrize(
    "objective",
    [
        ReverseKL,
        lambda guide: ReverseKL(guide, normalise=False),
        lambda guide: ScoreIdentity(guide, SquaredError(), 1.0),
        lambda guide: ScoreIdentity(guide, SquaredError(), 0.0),
        lambda guide: ScoreIdentity(guide, PseudoHuber(0.1), 0.0),
        lambda guide: ScoreIdentity(guide, SquaredError(), -0.4),
    ],
)
def test_it_ends_at_the_data_if_the_generator_can(objective):
    """Entries of the data are N(-0.5, 0.4²), and the generator is linear."""
    assert ends_at(objective(Closed(Scale(0.4, -0.5))), 64, tiny.SHAPE) == pytest.approx(
        [0.4, -0.5], abs=0.03
    )


@pytest.mark.parametrize(
    "objective",
    [ReverseKL, lambda guide, times, **options: ScoreIdentity(guide, None, 1.0, times=times, **options)],
)
def test_it_ends_at_images_whose_exact_velocity_guides(objective):
    """Quantiles of the same distribution, as images of one pixel; far from them all is near their edges."""
    places = (torch.arange(500) + 0.5) / 500
    images = (0.4 * torch.special.ndtri(places) - 0.5).reshape(-1, 1, 1, 1)
    game = objective(EmpiricalFlow(images), Uniform(0.02, 0.8), normalise=False)
    assert ends_at(game, 1024, (1, 1, 1)) == pytest.approx([0.4, -0.5], abs=0.01)


def ends_at(game, rows, shape):
    """Where a linear generator ends against its exact critic: scale and shift."""
    torch.manual_seed(0)
    generator = Scale()
    critic = Closed(generator)
    optimizer = Adam(generator.parameters(), lr=0.03)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)
    for _ in range(200):
        optimizer.zero_grad()
        game.student_loss(generator, critic, Pair(*torch.randn(2, rows, *shape)))["loss"].backward()
        optimizer.step()
        scheduler.step()
    scale, shift = (float(value.detach()) for value in generator.parameters())
    return [abs(scale), shift]
