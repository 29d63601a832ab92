"""Generators of several steps and their critics in training: solvers, weights, and networks that fit."""

from __future__ import annotations

import pytest
import tiny
import torch
from commandline import in_process
from lightning.pytorch.callbacks import Callback
from tools import tiny_unet
from torch.optim import SGD, Adam

from flowlit.callbacks import EMA, LastCheckpoint
from flowlit.couplings import Independent, SeededNoise
from flowlit.data import Digits
from flowlit.errors import FlowlitError
from flowlit.modules import Critic, CriticModule, FlowDataModule
from flowlit.modules.inheritance import inherit
from flowlit.networks import Discriminator
from flowlit.objectives import CombinedGame, Rollout
from flowlit.objectives.score_distillation import DMD, TDM, SiD
from flowlit.solvers import Euler, ReNoise


def module(objective=None, inheritance=0.0, critic=None, **options):
    torch.manual_seed(0)
    generator, guide = tiny.Affine(), tiny.Affine()
    second = critic or tiny.Affine()
    player = Critic(second, optimizer=lambda p: Adam(p, lr=1e-2), updates=2, inheritance=inheritance)
    objective = (objective or DMD)(guide)
    return CriticModule(generator, objective, player, optimizer=lambda p: SGD(p, lr=0.05), **options)


def fit(tmp_path, model, steps=2, callbacks=(), ckpt_path=None, **arguments):
    data = FlowDataModule(
        Independent(Digits(labels=False)), batch_size=8, seed=1, noise=SeededNoise(tiny.SHAPE, 4)
    )
    trainer = tiny.trainer(tmp_path, steps, callbacks, **{"limit_val_batches": 0, **arguments})
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path)
    return trainer


@pytest.mark.parametrize(
    ("objective", "solver"),
    [
        (lambda guide: DMD(guide, Rollout(3)), ReNoise(3)),
        (lambda guide: SiD(guide, rollout=Rollout(2, "fixed")), ReNoise(2, fresh=False)),
        (lambda guide: CombinedGame({"tdm": TDM(guide)}), Euler(4)),
    ],
)
def test_generators_of_several_steps_train_and_validate(tmp_path, objective, solver):
    trainer = fit(tmp_path, module(objective, solvers={"same": solver}), 2, [EMA(0.5)], limit_val_batches=1)
    assert trainer.global_step == 2
    assert trainer.logged_metrics["train/critic_loss"].isfinite()


@pytest.mark.parametrize(
    ("objective", "solvers", "message"),
    [
        (
            lambda guide: DMD(guide, Rollout(4)),
            {"a": Euler(4), "b": ReNoise(2)},
            "4 steps, renoise: fresh, but",
        ),
        (
            TDM,
            {"a": ReNoise(4)},
            r"write model.solvers: {euler4: {class_path: flowlit.solvers.Euler, init_args",
        ),
        (
            lambda guide: CombinedGame({"a": DMD(guide)}, rollout=Rollout(2)),
            {"a": Euler(1)},
            "ReNoise, init_args",
        ),
        (DMD, {"a": Euler(2)}, "with 1 step, renoise: fresh, .* {euler1: "),
    ],
)
def test_solvers_of_other_steps_are_refused_before_the_first(
    tmp_path, objective, solvers, message, monkeypatch
):
    monkeypatch.setattr(CriticModule, "training_step", lambda *_: pytest.fail("a step was taken"))
    with pytest.raises(FlowlitError, match=message):
        fit(tmp_path, module(objective, solvers=solvers))


def test_other_solvers_may_measure(tmp_path):
    """Beside the one that takes the same steps."""
    fit(tmp_path, module(lambda guide: DMD(guide, Rollout(2)), solvers={"a": Euler(7), "b": ReNoise(2)}), 1)


@pytest.mark.parametrize("at", ["guide", "critic"])
def test_networks_of_other_images_are_refused_before_the_first_step(tmp_path, at, monkeypatch):
    monkeypatch.setattr(CriticModule, "training_step", lambda *_: pytest.fail("a step was taken"))
    other = tiny.Affine(3)
    model = module(lambda guide: DMD(other)) if at == "guide" else module(critic=other)
    with pytest.raises(
        FlowlitError, match=r"DMD fails on the training data, x .*expected a guide and a critic"
    ):
        fit(tmp_path, model)


def game_of(**classes):
    """A game of U-Nets that know so many classes."""
    generator, guide, critic = (tiny_unet(num_classes=classes.get(name, 0)) for name in ROLES)
    return CriticModule(generator, DMD(guide), Critic(critic), solvers={"euler1": Euler(1)})


ROLES = ("generator", "guide", "critic")


@pytest.mark.parametrize(("role", "theirs"), [("guide", 5), ("critic", 11)])
def test_networks_of_other_classes_are_refused_when_they_meet(role, theirs):
    with pytest.raises(FlowlitError, match=f"the {role}, UNet, knows {theirs} classes, but the generator 10"):
        game_of(**dict.fromkeys(ROLES, 10) | {role: theirs})
    game_of(**dict.fromkeys(ROLES, 10) | {role: 0})


@pytest.mark.parametrize("role", ROLES)
def test_networks_that_miss_their_labels_are_refused_before_the_first_step(tmp_path, role, monkeypatch):
    monkeypatch.setattr(CriticModule, "training_step", lambda *_: pytest.fail("a step was taken"))
    with pytest.raises(
        FlowlitError, match=r"10 classes, but (cond has no 'label'|num_classes of data.noise)"
    ):
        fit(tmp_path, game_of(**{role: 10}))


def test_the_trial_leaves_no_trace(tmp_path):
    """Neither in weights, buffers and modes, nor in the random numbers."""
    model = module()

    class Look(Callback):
        def on_train_start(self, trainer, pl_module):
            self.calls = [int(network.calls) for network in (model.network, model.critic.network)]
            self.modes = [network.training for network in (model.network, model.critic.network)]
            self.gradients = [p.grad for p in model.parameters()]

    look = Look()
    fit(tmp_path, model, 1, [look])
    assert (look.calls, look.modes) == ([0, 0], [True, True])
    assert not any(gradient is not None for gradient in look.gradients)


def test_all_of_it_is_written_in_yaml(tmp_path):
    """Roll-outs of holders and presets, steps of a game, guidance, and what the critic inherits."""

    def part(name, **arguments):
        path = name if "." in name else f"score_distillation.{name}"
        return {"class_path": f"flowlit.objectives.{path.lstrip('.')}", "init_args": arguments}

    guide = tiny.unet(num_classes=10, label_dropout=0.1)
    uniform = {"class_path": "flowlit.objectives.times.Uniform"}
    rollout = {"k": 2, "renoise": "fixed", "times": [0.0, 0.3, 1.0]}
    parts = {
        "kl": part("ReverseKL", guide=guide, guidance={"scale": 2.0, "times": uniform}, rollout=rollout),
        "identity": part("ScoreIdentity", guide=guide, correction=1.0, rollout=rollout, critic_scale=-1.0),
        "tilt": part("DecoupledDMD", guide=guide, scale=3.0),
    }
    game = part(".CombinedGame", objectives=parts, steps={"kl": [0], "tilt": [1]})
    content = tiny.fit(tmp_path / "run", "CriticModule", guide, coupling=tiny.digits(labels=True), steps=1)
    grid = {"class_path": "flowlit.solvers.grids.Given", "init_args": {"times": [0.0, 0.3, 1.0]}}
    solver = {
        "class_path": "flowlit.solvers.ReNoise",
        "init_args": {"steps": 2, "fresh": False, "grid": grid},
    }
    critic = {"class_path": "flowlit.modules.Critic", "init_args": {"network": guide, "inheritance": 0.03}}
    content["model"]["init_args"] |= {"objective": game, "critic": critic, "solvers": {"a": solver}}
    content["data"]["init_args"]["noise"] = tiny.noise(num_classes=10)
    done = in_process("fit", "-c", tiny.write(tmp_path / "run.yaml", content))
    assert done.code == 0, done.err


# -- a critic that inherits weights


class Weights(Callback):
    """After each batch the weights of both networks."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        networks = (pl_module.network, pl_module.critic.network)
        self.seen.append(
            [torch.cat([p.detach().flatten().clone() for p in n.parameters()]) for n in networks]
        )


def test_the_critic_takes_over_a_share_after_the_generators_update(tmp_path):
    seen = {}
    for share in (0.0, 0.25):
        weights = Weights()
        fit(tmp_path, module(inheritance=share), 1, [weights])
        seen[share] = weights.seen
    for turn in (0, 1):  # the critic's
        assert torch.equal(seen[0.0][turn][1], seen[0.25][turn][1])
    generator, critic = seen[0.0][2]
    assert torch.equal(generator, seen[0.25][2][0])
    torch.testing.assert_close(seen[0.25][2][1], 0.75 * critic + 0.25 * generator)
    assert not torch.allclose(critic, seen[0.25][2][1])


def test_the_network_of_a_discriminator_inherits_and_its_head_does_not():
    head = torch.nn.Conv2d(1, 1, 1)
    critic = Discriminator(tiny.Affine(), layer="mix", head=head)
    generator = tiny.Affine()
    model = module(inheritance=0.25, critic=critic)
    before = [p.detach().clone() for p in critic.parameters()]
    inherit(generator, model.critic.network, 0.25)
    pairs = zip(critic.network.parameters(), generator.parameters(), before, strict=False)
    for own, other, old in pairs:
        torch.testing.assert_close(own, 0.75 * old + 0.25 * other)
    assert torch.equal(head.weight, before[-2]) and torch.equal(head.bias, before[-1])


def test_it_goes_on_to_the_bit_from_a_checkpoint(tmp_path):
    """Inheritance, roll-out and critic, in one run or two."""

    def fresh():
        return module(lambda guide: DMD(guide, Rollout(3)), 0.1, solvers={"a": ReNoise(3)})

    through = fresh()
    fit(tmp_path, through, 4)
    first = fresh()
    fit(tmp_path, first, 2, [LastCheckpoint(2)], enable_checkpointing=True)
    half = next(tmp_path.rglob("last.ckpt"))
    second = fresh()
    fit(tmp_path, second, 4, ckpt_path=half)
    at_once, resumed, before = (model.state_dict() for model in (through, second, first))
    weights = [name for name in at_once if "calls" not in name and not name.startswith("ema")]
    assert [name for name in weights if not torch.equal(at_once[name], resumed[name])] == []
    assert [name for name in weights if torch.equal(at_once[name], before[name])] == []


def test_a_critic_of_another_architecture_cannot_inherit():
    with pytest.raises(
        FlowlitError, match=r"Critic: inheritance needs a critic of the generator's architecture"
    ):
        module(inheritance=0.03, critic=torch.nn.Sequential(tiny.Affine()))
    with pytest.raises(FlowlitError, match=r"mix.weight is .* there, .* here"):
        module(inheritance=0.03, critic=tiny.Affine(3))


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_shares_out_of_range_are_refused(share):
    with pytest.raises(FlowlitError, match="Critic: inheritance is"):
        module(inheritance=share)
