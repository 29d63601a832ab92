"""Generator against discriminator: the best logits, who gets gradients, and what is refused."""

from types import SimpleNamespace

import pytest
import tiny
import torch
from gaussians import gaussian, linear_pair, nodes
from stores import Blind, fill
from tools import randomise, tiny_unet
from torch import nn
from torch.optim import SGD

from flowlit.couplings import Cached, Independent, SeededNoise, Simulated
from flowlit.couplings.origins import FromData, FromNoise
from flowlit.data import Digits
from flowlit.errors import FlowlitError
from flowlit.modules import Critic, CriticModule, FlowDataModule
from flowlit.networks import ChannelMean, Discriminator, EmpiricalFlow
from flowlit.objectives import CombinedGame, RectifiedFlow
from flowlit.objectives.score_distillation import (
    DMD2,
    Adversarial,
    DensityRatio,
    FDistill,
    ReverseKL,
    adversarial_loss,
    approximate_r1,
    discriminator_loss,
)
from flowlit.objectives.times import Fixed
from flowlit.paths.straight import interpolate
from flowlit.solvers import Euler
from flowlit.types import Pair

Z, NOISE, WEIGHTS = nodes(64)
DATA, SAMPLES = gaussian(0.2, 0.9), gaussian(-0.3, 1.1)


class Quadratic(nn.Module):
    """Logits a + b x + c x²: what two Gaussians differ by. A map of two like entries, if it is to be one."""

    def __init__(self, coefficients, as_map=False):
        super().__init__()
        self.coefficients = nn.Parameter(coefficients)
        self.as_map = as_map

    def logits(self, x, t, cond):
        a, b, c = self.coefficients
        values = a + b * x + c * x**2
        return values.expand(-1, 1, 1, 2) if self.as_map else values.flatten(1).mean(1)


def times(t):
    return torch.full((len(Z),), t, dtype=torch.float64)


def log_odds(t):
    """Coefficients of log p_t / q_t."""
    t = torch.tensor(t, dtype=torch.float64)
    (p, m), (q, n) = ((model.variance(t), t * model.mean) for model in (DATA, SAMPLES))
    constant = (n**2 / q - m**2 / p + (q / p).log()) / 2
    return torch.stack([constant, m / p - n / q, (1 / q - 1 / p) / 2])


@pytest.mark.parametrize("as_map", [False, True])
@pytest.mark.parametrize("t", [0.1, 0.37, 0.8])
def test_the_best_logits_are_the_log_odds_of_data(t, as_map):
    """Nothing lessens the loss there; elsewhere, and with both sides exchanged, something does."""
    real, fake = (linear_pair(model, Z, NOISE) for model in (DATA, SAMPLES))

    def slope(coefficients, *pairs):
        critic = Quadratic(coefficients, as_map)
        (WEIGHTS * discriminator_loss(critic, *pairs, times(t))).sum().backward()
        return critic.coefficients.grad.norm()

    assert slope(log_odds(t), fake, real) < 1e-6
    assert slope(log_odds(t), real, fake) > 1e-3
    assert slope(-log_odds(t), fake, real) > 1e-3


def test_the_generator_makes_its_samples_more_likely():
    """Along the gradient of the logits, by the probability that they are found out."""
    t, critic = 0.6, Quadratic(log_odds(0.6)).requires_grad_(False)
    x = torch.randn(7, 1, 1, 1, dtype=torch.float64, requires_grad=True)
    at = torch.full((7,), t, dtype=torch.float64)
    noise = torch.randn_like(x)
    (found,) = torch.autograd.grad(adversarial_loss(critic, Pair(noise, x), at).sum(), x)
    x_t = interpolate(noise, x, at).detach().requires_grad_()
    logits = critic.logits(x_t, at, {})
    (slope,) = torch.autograd.grad(logits.sum(), x_t)
    expected = -torch.sigmoid(-logits.detach()).reshape(-1, 1, 1, 1) * slope * t
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("sigma", [1e-2, 1e-4])
def test_r1_is_about_the_squared_gradient(sigma):
    """In its mean over the noise; without a second differentiation."""
    t, critic = 0.37, Quadratic(log_odds(0.37))
    x_0 = torch.full((1, 1, 1, 1), 2.0, dtype=torch.float64).expand_as(Z)  # where the slope is not near 0
    pair = Pair(x_0, x_0 + 1)
    found = (WEIGHTS * approximate_r1(critic, pair, times(t), Z, sigma=sigma)).sum()
    x_t = interpolate(*pair[:2], times(t)).requires_grad_()
    (slope,) = torch.autograd.grad(critic.logits(x_t, times(t), {}).sum(), x_t)
    torch.testing.assert_close(found, (slope[0] ** 2).sum(), rtol=sigma, atol=1e-9)


def unet():
    return randomise(tiny_unet())


def networks(seed=0, **arguments):
    """A generator, and a discriminator on features of a network."""
    torch.manual_seed(seed)
    return tiny.Affine(), randomise(Discriminator(unet(), **arguments), seed=1)


def pair(rows=6):
    torch.manual_seed(1)
    return Pair(*torch.randn(2, rows, *tiny.SHAPE))


def game(guide=None, **arguments):
    return CombinedGame({"kl": DMD2(guide or unet()), "gan": Adversarial(**arguments)}, {"gan": 0.1})


@pytest.mark.parametrize("objective", [Adversarial(r1=1.0), game(r1=1.0)], ids=["alone", "with DMD2"])
def test_each_turn_reaches_its_own_weights(objective):
    """Through the features of the critic into the sample; head and encoder learn together."""
    generator, critic = networks()
    critic.requires_grad_(False)
    objective.student_loss(generator, critic, pair())["loss"].backward()
    assert generator.mix.weight.grad.abs().sum() > 0  # the drift is multiplied by t = 0
    assert all(p.grad is None for p in critic.parameters())
    generator.zero_grad()
    critic.requires_grad_(True)
    objective.critic_loss(generator, critic, pair())["loss"].backward()
    assert all(p.grad is None for p in generator.parameters())
    graded = {name for name, p in critic.named_parameters() if p.grad is not None}
    assert any(name.startswith("head.") for name in graded)
    assert any("encoder" in name for name in graded)
    assert any("decoder" in name for name in graded) == isinstance(objective, CombinedGame)


def test_the_samples_move_through_the_discriminator_alone():
    """Not through the pair: its images do not matter in the generator's turn."""
    generator, critic = networks()
    losses = []
    for shift in (0.0, 1.0):
        batch = pair()
        torch.manual_seed(2)
        moved = batch._replace(x1=batch.x1 + shift)
        losses.append(float(Adversarial().student_loss(generator, critic, moved)["loss"].detach()))
    assert losses[0] == losses[1]


def test_samples_and_images_are_noised_alike():
    """Or the amount of noise would give them away."""
    seen = []

    class Watching(nn.Module):
        def logits(self, x, t, cond):
            seen.append(t)
            return x.mean((1, 2, 3))

    Adversarial().critic_sample_loss(pair().x0, Watching(), pair())
    assert len(seen) == 2 and torch.equal(*seen) and seen[0].std() > 0
    Adversarial(times=Fixed(0.3)).critic_sample_loss(pair().x0, Watching(), pair())
    assert seen[-1].tolist() == pytest.approx(6 * [0.3])


def test_the_critics_loss_has_a_weight_of_its_own():
    generator, critic = networks()
    losses = []
    for weight in (1.0, 3.0):
        torch.manual_seed(2)
        objective = Adversarial(weight)
        losses.append([objective.critic_loss(generator, critic, pair())["loss"].item()])
        torch.manual_seed(2)
        losses[-1].append(objective.student_loss(generator, critic, pair())["loss"].item())
    assert losses[1] == pytest.approx([3 * losses[0][0], losses[0][1]])


def test_it_counts_from_an_update_of_the_generator():
    generator, critic = networks()
    objective = Adversarial(start=5)
    module = nn.Module()
    module.critic, module.global_step = SimpleNamespace(network=critic, objective=None), 4
    objective.on_attach(module)
    loss = objective.student_loss(generator, critic, pair())["loss"]
    loss.backward()
    assert loss == 0 and all(p.grad.abs().sum() == 0 for p in generator.parameters())
    assert objective.critic_loss(generator, critic, pair())["loss"] > 0
    module.global_step = 5
    assert objective.student_loss(generator, critic, pair())["loss"] > 0


def test_a_density_ratio_weights_samples_by_the_logits():
    generator, critic = networks()
    guide = unet()
    torch.manual_seed(2)
    batch = pair(40)
    x = generator(batch.x0, torch.zeros(40)) + batch.x0
    t = torch.rand(40)
    noised = Pair(batch.x0, x)
    plain, _ = ReverseKL(guide).loss(critic, noised, t, torch.zeros_like(t))
    ratio = DensityRatio("jeffreys", bins=3)
    found, _ = ReverseKL(guide, ratio=ratio).loss(critic, noised, t, torch.zeros_like(t))
    logits = critic.logits(interpolate(*noised[:2], t), t).flatten()
    weights = ratio(logits, t)
    assert weights.std() > 0 and plain.std() > 0
    torch.testing.assert_close(found, weights * plain)


def module(played, network=None, **arguments):
    torch.manual_seed(0)
    settings = {"optimizer": lambda p: SGD(p, lr=0.1), "updates": 2, **arguments}
    critic = Critic(network or Discriminator(unet()), **settings)
    return CriticModule(tiny.Affine(), played, critic, optimizer=lambda p: SGD(p, lr=0.1))


def fit(tmp_path, module, coupling=None, steps=2):
    batches = FlowDataModule(coupling or Independent(Digits(labels=False)), batch_size=8, seed=1)
    trainer = tiny.trainer(tmp_path, steps, limit_val_batches=0)
    trainer.fit(module, datamodule=batches)
    return trainer


OBJECTIVES = {
    "DMD2": lambda guide: game(guide, r1=1.0, start=1),
    "f-distill": lambda guide: CombinedGame({"kl": FDistill(guide), "gan": Adversarial()}),
    "alone": lambda guide: Adversarial(),
}


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_they_train_in_a_module_of_two(tmp_path, kind):
    whole = module(OBJECTIVES[kind](unet()))
    before = {name: value.clone() for name, value in whole.state_dict().items()}
    trainer = fit(tmp_path, whole)
    moved = {name for name, value in whole.state_dict().items() if not torch.equal(value, before[name])}
    assert {"network.mix.weight", "critic.network.head.0.weight"} <= moved
    assert any(name.startswith("critic.network.network.encoder") for name in moved)
    assert {"train/loss", "train/critic_loss"} <= trainer.logged_metrics.keys()
    assert not any("guide" in name for name in whole.state_dict())


@pytest.mark.parametrize(
    ("objective", "options", "message"),
    [
        (
            game,
            {"network": tiny.Affine()},
            "Adversarial: the critic's network, Affine, has no logits; put",
        ),
        (Adversarial, {"network": tiny.Affine()}, "Adversarial: .* has no logits"),
        (game, {"objective": RectifiedFlow()}, "Adversarial: the critic has an objective of its own, Rect"),
        (lambda: FDistill(unet()), {}, "DensityRatio: the critic's logits would not be trained"),
        (
            lambda: CombinedGame({"kl": FDistill(unet()), "gan": Adversarial()}),
            {"network": tiny.Affine()},
            "DensityRatio: .* has no logits",
        ),
    ],
    ids=range(5),
)
def test_what_would_not_be_trained_is_refused_when_it_is_built(objective, options, message):
    with pytest.raises(FlowlitError, match=message):
        module(objective(), **options)


def test_images_that_a_network_made_are_no_real_ones(tmp_path):
    noise = SeededNoise(tiny.SHAPE, 16)
    simulated = Simulated(tiny.Affine(), Euler(1), noise)
    with pytest.raises(FlowlitError, match=r"CombinedGame compares with real images, but those of Simulated"):
        fit(tmp_path, module(game()), simulated)
    cached = Cached(fill(tmp_path / "store", origin=FromNoise(noise)))
    with pytest.raises(FlowlitError, match=r"Adversarial compares with real images, but those of Cached"):
        fit(tmp_path, module(Adversarial()), cached)
    assert cached.generates
    fit(tmp_path, module(DMD2(unet())), cached, 1)


def test_real_images_that_a_teacher_inverted_are_real(tmp_path):
    images = Digits(limit=50, labels=False)
    teacher = Blind(EmpiricalFlow(images.data[0].float() / 127.5 - 1))
    store = fill(tmp_path / "store", teacher, origin=FromData(images))
    cached = Cached(store)
    cached.dataset()
    assert not cached.generates


def test_logits_may_be_maps():
    generator, critic = networks(head=ChannelMean())
    for losses in (Adversarial().student_loss, Adversarial(r1=0.1).critic_loss):
        assert losses(generator, critic, pair())["loss"].shape == ()
