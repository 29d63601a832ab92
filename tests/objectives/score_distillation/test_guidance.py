"""Classifier-free guidance in score distillation: of the guide, of the critic, and at times of its own."""

import pytest
import tiny
import torch
from torch import nn
from torch.optim import SGD

from flowlit import rng
from flowlit.couplings import Independent
from flowlit.data import Digits
from flowlit.errors import FlowlitError
from flowlit.modules import Critic, CriticModule, FlowDataModule
from flowlit.networks import ClassifierFreeGuidance
from flowlit.objectives import Rollout
from flowlit.objectives.score_distillation import (
    DMD,
    CFGAugmentation,
    DecoupledDMD,
    ReverseKL,
    ScoreIdentity,
    SiD,
    cfg_augmentation,
    reverse_kl_loss,
)
from flowlit.objectives.times import Fixed
from flowlit.paths.straight import interpolate
from flowlit.types import Pair


class Labelled(nn.Module):
    """A velocity of ten classes, with a drift and a slope for each, and one of each for none."""

    num_classes = 10
    label_dropout = 0.1

    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.drift = nn.Parameter(torch.randn(11, 1, 8, 8, generator=generator, dtype=torch.float64))
        self.slope = nn.Parameter(torch.randn(11, 1, 1, 1, generator=generator, dtype=torch.float64))
        self.modes = []

    def forward(self, x, t, cond={}):
        self.modes.append(self.training)
        label = cond.get("label", torch.full((len(x),), 10))
        v = torch.tanh(self.slope[label] * x) + self.drift[label] * (1 + t.reshape(-1, 1, 1, 1))
        return v.to(x.dtype)


def batch(rows=6):
    torch.manual_seed(1)
    x0, x1 = torch.randn(2, rows, *tiny.SHAPE, dtype=torch.float64)
    return Pair(x0, x1, {"label": torch.arange(rows)})


def losses(objective, generator, critic, rows=6):
    torch.manual_seed(5)
    loss = objective.student_loss(generator, critic, batch(rows))["loss"]
    return [loss, *torch.autograd.grad(loss, list(generator.parameters()))]


SCALES = [-1.5, 0.0, 1.0, 2.5]
T = torch.tensor([0.1, 0.4, 0.9], dtype=torch.float64)


@pytest.mark.parametrize("scale", SCALES)
def test_a_guided_guide_is_matching_less_augmentation(scale):
    """y = (v_ψ - v_φ) - (w - 1) (v_φ - v_φ^∅), and the residual that normalises is guided, too."""
    critic, guide = Labelled(1), Labelled(2)
    pair = batch(3)
    guided, residual = reverse_kl_loss(ClassifierFreeGuidance(guide, scale), critic, pair, T)
    added = cfg_augmentation(guide, pair, T, scale=scale)
    apart, other = reverse_kl_loss(guide, critic, pair, T, guidance=added)
    torch.testing.assert_close(guided, apart)
    torch.testing.assert_close(residual, other)
    if scale != 1:
        plain, _ = reverse_kl_loss(guide, critic, pair, T)
        assert not torch.allclose(plain, guided)
        torch.testing.assert_close(guided, plain - (added * pair.x1).mean((1, 2, 3)))


@pytest.mark.parametrize("scale", [0.0, 3.0])
def test_equal_times_are_dmd_with_a_guided_guide(scale):
    generator, critic, guide = (Labelled(seed) for seed in range(3))
    apart = ReverseKL(guide, guidance=CFGAugmentation(scale))
    guided = DMD(ClassifierFreeGuidance(guide, scale))
    torch.testing.assert_close(losses(apart, generator, critic), losses(guided, generator, critic))


def test_a_scale_of_one_is_dmd_to_the_bit():
    generator, critic, guide = (Labelled(seed) for seed in range(3))
    for one, other in zip(
        losses(DecoupledDMD(guide, 1.0), generator, critic),
        losses(DMD(guide), generator, critic),
        strict=True,
    ):
        assert torch.equal(one, other)


class Seen(Labelled):
    """A guide that stores at which times it is evaluated."""

    def forward(self, x, t, cond={}):
        self.__dict__.setdefault("times", []).append(t)
        self.__dict__.setdefault("inputs", []).append(x)
        return super().forward(x, t, cond)


@pytest.mark.parametrize("rollout", [None, Rollout(4)])
def test_augmentation_is_later_than_the_step_that_made_the_sample(rollout):
    guide = Seen()
    objective = DecoupledDMD(guide, 2.0, rollout)
    batch_of = Pair(
        *(value.repeat(50, 1, 1, 1) for value in batch(4)[:2]), {"label": torch.zeros(200).long()}
    )
    rolled = objective.roll(Labelled(), batch_of)
    objective.rolled_loss(rolled, Labelled(1), batch_of)
    with_label, without, matching = guide.times
    assert torch.equal(with_label, without) and not torch.equal(with_label, matching)
    assert (with_label > rolled.since).all() and (with_label < 1).all()
    if rollout:
        assert (matching < rolled.since).any()
    # the noise is not that of matching, either
    noise, other = (
        (x - t.reshape(-1, 1, 1, 1) * rolled.x) / (1 - t.reshape(-1, 1, 1, 1))
        for x, t in zip(guide.inputs[1:], guide.times[1:], strict=True)
    )
    assert not torch.allclose(noise, other)


class Read(Labelled):
    """The same of a text: the first of its numbers is the class."""

    num_classes = 0
    label_dropout = None
    reads = frozenset({"text"})

    def forward(self, x, t, cond={}):
        assert set(cond) <= {"text"}
        label = {"label": cond["text"][:, 0, 0].long()} if cond else {}
        return super().forward(x, t, label)


def test_augmentation_drops_a_text_as_it_drops_a_label():
    """Decoupled DMD of text: the same guidance, to the bit."""
    labelled = batch(3)
    pair = labelled._replace(cond={"text": labelled.cond["label"].double().view(3, 1, 1)})
    objective = DecoupledDMD(Read(1), 3.0)
    torch.manual_seed(0)
    found = objective.guidance(objective.guide, pair, T, torch.zeros(3, dtype=torch.float64))
    torch.manual_seed(0)
    expected = CFGAugmentation(3.0, objective.guidance.times)(Labelled(1), labelled, T, torch.zeros_like(T))
    assert torch.equal(found, expected)


def test_augmentation_is_the_part_of_the_label():
    guide = Labelled(1)
    pair = batch(3)
    found = cfg_augmentation(guide, pair, T, scale=3.0)
    x_t = interpolate(pair.x0, pair.x1, T)
    expected = 2 * (guide(x_t, T, pair.cond) - guide(x_t, T))
    torch.testing.assert_close(found, expected.detach())
    assert not found.requires_grad


# -- the critic's guidance


@pytest.mark.parametrize("scale", SCALES)
def test_the_critic_is_guided_where_it_is_compared(scale):
    """y = DM + (s - 1) (v_ψ - v_ψ^∅): Zero-CFG is 0, Anti-CFG below."""
    generator, critic, guide = (Labelled(seed) for seed in range(3))
    objective = ReverseKL(guide, Fixed(0.5), normalise=False, critic_scale=scale)
    found = losses(objective, generator, critic)
    torch.manual_seed(5)
    pair = batch()
    x = objective.sample(generator, pair)
    noised = Pair(rng.randn_like(x), x, pair.cond)
    t = torch.full((6,), 0.5, dtype=torch.float64)
    added = cfg_augmentation(critic, noised, t, scale=scale)
    torch.manual_seed(5)
    expected = (
        losses(ReverseKL(guide, Fixed(0.5), normalise=False), generator, critic)[0] + (added * x).mean()
    )
    torch.testing.assert_close(found[0], expected)


@pytest.mark.parametrize("scale", [0.0, -1.0])
@pytest.mark.parametrize("kind", [SiD, ScoreIdentity])
def test_path_gradients_flow_through_the_guided_critic(scale, kind):
    generator, critic, guide = (Labelled(seed) for seed in range(3))
    found = losses(kind(guide, critic_scale=scale), generator, critic)
    wrapped = losses(kind(guide), generator, ClassifierFreeGuidance(critic, scale))
    torch.testing.assert_close(found, wrapped)


def test_the_critics_own_training_is_not_guided_unless_its_network_is():
    """SiD-LSG guides it in training, too: the guided prediction is regressed."""
    critic, guide = Labelled(1), Labelled(2)
    x = batch().x1
    found = []
    for objective, network in [
        (SiD(guide), critic),
        (SiD(guide, critic_scale=-1.0), critic),
        (SiD(guide), ClassifierFreeGuidance(critic, 4.5)),
    ]:
        torch.manual_seed(5)
        found.append(float(objective.critic_sample_loss(x, network, batch())["loss"]))
    assert found[0] == found[1] != found[2]


def test_a_critic_without_condition_sees_no_label():
    """Zero-CFG in training: ``scale: 0`` around the critic's network, at the cost of one evaluation."""
    critic = Labelled(1)
    network = ClassifierFreeGuidance(critic, 0.0)
    SiD(Labelled(2)).critic_sample_loss(batch().x1, network, batch())["loss"].backward()
    assert network.evaluations == 1 and len(critic.modes) == 1
    assert critic.drift.grad[10].any() and not critic.drift.grad[:10].any()


def test_the_critic_is_compared_in_eval_mode_and_trained_in_train_mode():
    """Or its dropped labels would guide some samples at random."""
    critic = Labelled(1)
    critic.train()
    objective = DMD(Labelled(2))
    losses(objective, Labelled(0), critic)
    assert critic.modes == [False] and critic.training
    objective.critic_loss(Labelled(0), critic, batch())
    assert critic.modes == [False, True]


def test_eval_mode_ends_with_an_error():
    critic = Labelled(1).train()
    with pytest.raises(FlowlitError, match="nothing to guide with, cond is empty"):
        ReverseKL(Labelled(2), critic_scale=0.0).sample_loss(batch().x1, critic, Pair(*batch()[:2]))
    assert critic.training


# -- before the first step


class Unlabelled(Labelled):
    num_classes = 0


class Always(Labelled):
    label_dropout = 0.0


@pytest.mark.parametrize(
    ("guide", "message"),
    [
        (Unlabelled(), "is unconditional; expected one trained with num_classes and label_dropout > 0"),
        (Always(), "never learned to do without its label"),
        (ClassifierFreeGuidance(Labelled(), 2.0), "takes 2 evaluations: it is guided already"),
    ],
)
def test_guides_that_cannot_be_guided_are_refused(guide, message):
    with pytest.raises(FlowlitError, match=message):
        DecoupledDMD(guide, 2.0)


def train(tmp_path, objective, labels=False, critic=None, generator=None):
    critic = Critic(critic or tiny.Affine(), optimizer=lambda p: SGD(p, lr=0.01))
    module = CriticModule(generator or tiny.Affine(), objective, critic)
    data = FlowDataModule(Independent(Digits(labels=labels)), batch_size=8, seed=1)
    tiny.trainer(tmp_path, 2, limit_val_batches=0).fit(module, datamodule=data)


@pytest.mark.parametrize(
    "objective",
    [
        lambda: DMD(ClassifierFreeGuidance(Labelled(), 2.0)),
        lambda: DecoupledDMD(Labelled(), 2.0),
        lambda: SiD(Labelled(), critic_scale=0.0),
    ],
)
def test_missing_labels_are_one_error_before_the_first_step(tmp_path, objective, monkeypatch):
    monkeypatch.setattr(CriticModule, "training_step", lambda *_: pytest.fail("a step was taken"))
    with pytest.raises(FlowlitError, match=r"nothing to guide with, cond is empty; give labels \(data"):
        train(tmp_path, objective())


def test_they_train_with_labels(tmp_path):
    for objective in (DecoupledDMD(Labelled(2), 2.0), SiD(Labelled(2), critic_scale=-1.0)):
        train(tmp_path, objective, True, Labelled(1).float())
