"""A generator and its critic: killed and taken up again, to the bit, and divided among devices."""

from __future__ import annotations

import os
import signal

import pytest
import runs
import tiny
import torch
from commandline import in_process
from forks import apart, killed, left
from games import duel
from interrupted import Strikes, assert_equal
from matrix import few
from tools import tiny_unet
from torch.optim import Adam

from flowlit import networks
from flowlit.callbacks import EMA, Gradients, LastCheckpoint, LossOverTime
from flowlit.couplings import Independent
from flowlit.data import Digits
from flowlit.modules import Critic, CriticModule, FlowDataModule
from flowlit.objectives import CombinedGame, Rollout
from flowlit.objectives.score_distillation import DMD2, Adversarial
from flowlit.solvers import ReNoise

pytestmark = pytest.mark.journey
STEPS = 6
BATCHES = 6
"""A step's: two updates of the critic and one of the generator, in two parts each."""


def configuration(root, strike=None, **arguments):
    """A run with everything that counts steps."""
    schedule = {"class_path": "flowlit.schedules.Linear", "init_args": {"steps": 5, "start": 0.5}}
    noise = {"schedule": schedule, "attribute": "objective.strength"}
    callbacks = [
        {"class_path": "flowlit.callbacks.Anneal", "init_args": noise},
        tiny.EMA,
        {"class_path": "flowlit.callbacks.EMA", "init_args": {"decay": 0.8, "name": "rare", "every": 2}},
        {"class_path": "flowlit.callbacks.Gradients"},
        {"class_path": "flowlit.callbacks.Rollback", "init_args": {"window": 2}},
        {"class_path": "flowlit.callbacks.Straightness"},
        tiny.checkpoints(2),
    ]
    if strike:
        hook, count, signum = strike
        struck = {"hook": hook, "count": count, "once": f"{root}.struck", "signum": int(signum)}
        callbacks.append({"class_path": "interrupted.Strike", "init_args": struck})
    warm = {"class_path": "flowlit.schedules.WarmUp", "init_args": {"steps": 4, "total": 12}}
    settings = {"limit_val_batches": 1.0, "val_check_interval": 3, "check_val_every_n_epoch": None}
    content = duel(
        root,
        critic={"lr_scheduler": warm},
        callbacks=callbacks,
        steps=STEPS,
        data={"device_batch_size": 4, "noise": tiny.noise(6), "noise_batch_size": 3},
        **{**settings, **arguments},
    )
    content["model"]["init_args"]["lr_scheduler"] = warm
    return tiny.write(root.with_suffix(".yaml"), content)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    root = tmp_path_factory.mktemp("undisturbed") / "run"
    done = in_process("fit", "-c", configuration(root))
    assert done.code == 0, done.err
    return root


def test_everything_moves_at_the_pace_of_the_generator(undisturbed):
    logged = runs.logged(undisturbed)
    for tag in (
        "train/loss",
        "train/critic_loss",
        "gradients/norm",
        "gradients/critic_norm",
        "anneal/ema_decay",
    ):
        assert sorted(logged[tag]) == list(range(STEPS)), tag
    assert [logged["anneal/strength"][step] for step in range(STEPS)] == pytest.approx(
        [0.5, 0.4, 0.3, 0.2, 0.1, 0]
    )
    assert len(logged["straightness/sum"]) == STEPS // 3
    content = torch.load(undisturbed / "checkpoints/last.ckpt", weights_only=True)
    before = torch.load(undisturbed / "checkpoints/previous.ckpt", weights_only=True)
    assert (content["global_step"], before["global_step"]) == (STEPS, STEPS)
    assert [state["state"][0]["step"] for state in content["optimizer_states"]] == [STEPS, 2 * STEPS]
    assert [state["last_epoch"] for state in content["lr_schedulers"]] == [STEPS, 2 * STEPS]
    assert content["flowlit"]["ema_updates"] == STEPS
    assert content["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["ready"] == STEPS * BATCHES


MOMENTS = [
    ("on_train_batch_start", 1 + 2 * BATCHES + 1),  # in the middle of an update of the critic
    ("on_before_optimizer_step", 3 * 3 + 2),  # after one of its updates
    ("on_train_batch_end", 4 * BATCHES),
    ("on_validation_batch_end", 1),
    ("on_train_end", 1),
]


@pytest.mark.parametrize(("hook", "count"), few(MOMENTS, 1))
def test_killed_at_any_moment(tmp_path, undisturbed, hook, count):
    root = tmp_path / "run"
    path = configuration(root, strike=(hook, count, signal.SIGKILL))
    killed("fit", "-c", path, "--resume", "auto")
    resumed = in_process("fit", "-c", path, "--resume", "auto")
    assert resumed.code == 0, resumed.err
    assert_equal(undisturbed, root)


@pytest.mark.slow
def test_a_signal_waits_for_the_update_of_the_generator(tmp_path, undisturbed):
    root = tmp_path / "run"
    path = configuration(root, strike=("on_train_batch_start", 2 + 2 * BATCHES, signal.SIGTERM))
    assert left("fit", "-c", path) == 143
    content = torch.load(root / "checkpoints/last.ckpt", weights_only=True)
    assert content["global_step"] == 3
    assert content["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["ready"] == 3 * BATCHES
    assert in_process("fit", "-c", path, "--resume", "auto").code == 0
    assert_equal(undisturbed, root)


@pytest.mark.slow
def test_batches_that_are_divided_otherwise_are_counted_otherwise(tmp_path, undisturbed):
    """Taken up with other parts: the same steps, and the same numbers up to the order of sums."""
    root = tmp_path / "run"
    path = configuration(root, strike=("on_train_batch_start", 2 + 2 * BATCHES, signal.SIGTERM))
    assert left("fit", "-c", path) == 143
    resumed = in_process("fit", "-c", path, "--resume", "auto", "--data.device_batch_size", "8")
    assert resumed.code == 0, resumed.err
    assert_close(undisturbed, root)


def assert_close(one, other):
    a, b = runs.logged(one), runs.logged(other)
    assert {tag: sorted(values) for tag, values in a.items()} == {
        tag: sorted(values) for tag, values in b.items()
    }
    for tag in (
        "train/loss",
        "train/critic_loss",
        "gradients/norm",
        "gradients/critic_norm",
        "straightness/sum",
    ):
        x, y = (torch.tensor([run[tag][step] for step in sorted(a[tag])]) for run in (a, b))
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5, msg=lambda text, tag=tag: f"{tag}: {text}")
    assert_weights_close(one, other)


def assert_weights_close(one, other):
    x, y = (tiny.weights(root / "checkpoints/last.ckpt") for root in (one, other))
    for key in x:
        torch.testing.assert_close(x[key], y[key], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "sharded"])
def test_two_processes_train_as_one_and_go_on(tmp_path, undisturbed, flowlit, strategy):
    """The same numbers up to the order of sums; killed in the middle, they go on to the same bits."""
    root = tmp_path / "run"
    two = ("--trainer.devices", "2", "--trainer.strategy", strategy)
    environment = {"PYTHONPATH": f"{runs.HELPERS}:{runs.HELPERS.parents[1]}"}
    done = flowlit("fit", "-c", configuration(root), *two, **environment)
    assert done.code == 0, done.err
    assert_close(undisturbed, root)
    again = tmp_path / "again"
    path = configuration(again, strike=("on_before_optimizer_step", 8, signal.SIGKILL))
    assert flowlit("fit", "-c", path, *two, "--resume", "auto", **environment).code != 0
    done = flowlit("fit", "-c", path, *two, "--resume", "auto", **environment)
    assert done.code == 0, done.err
    assert_equal(root, again)


@pytest.mark.slow
def test_a_sharded_run_goes_on_in_one_process(tmp_path, undisturbed, flowlit):
    """Optimizers of both networks are whole in the file, with the numbers of their own parameters."""
    root = tmp_path / "run"
    path = configuration(root, strike=("on_train_batch_start", 1 + 3 * BATCHES // 2, signal.SIGTERM))
    two = ("--trainer.devices", "2", "--trainer.strategy", "sharded")
    environment = {"PYTHONPATH": f"{runs.HELPERS}:{runs.HELPERS.parents[1]}"}
    done = flowlit("fit", "-c", path, *two, **environment)
    assert done.code == 143, done.err
    assert in_process("fit", "-c", path, "--resume", "auto").code == 0
    assert_close(undisturbed, root)


def with_real_images(root, k=1, strikes=()):
    """DMD2 of k steps, whose critic is a discriminator, too, and is called several times in each turn."""
    package = "flowlit.objectives.score_distillation"
    rollout = {"class_path": "flowlit.objectives.Rollout", "init_args": {"k": k}}
    kl = {"class_path": f"{package}.DMD2", "init_args": {"guide": tiny.unet(), "rollout": rollout}}
    gan = {"class_path": f"{package}.Adversarial", "init_args": {"r1": 0.1, "start": 2}}
    network = {"class_path": "flowlit.networks.Discriminator", "init_args": {"network": tiny.unet()}}
    callbacks = [
        tiny.EMA,
        {"class_path": "flowlit.callbacks.Gradients"},
        {"class_path": "flowlit.callbacks.LossOverTime", "init_args": {"bins": 2}},
        tiny.checkpoints(1),
    ]
    for i, (hook, count) in enumerate(strikes):
        struck = {"hook": hook, "count": count, "once": f"{root}.{i}", "signum": int(signal.SIGKILL)}
        callbacks.append({"class_path": "interrupted.Strike", "init_args": struck})
    parts = {"device_batch_size": 4}
    content = duel(root, critic={"network": network}, callbacks=callbacks, steps=4, data=parts)
    content["trainer"]["log_every_n_steps"] = 2
    content["model"]["init_args"]["objective"] = {
        "class_path": "flowlit.objectives.CombinedGame",
        "init_args": {"objectives": {"kl": kl, "gan": gan}},
    }
    content["model"]["init_args"]["solvers"] = {
        "k": {"class_path": "flowlit.solvers.ReNoise", "init_args": {"steps": k}}
    }
    return tiny.write(root.with_suffix(".yaml"), content)


STRIKES = [
    ("on_before_optimizer_step", 2),  # in the first step
    ("on_train_batch_start", BATCHES - 1),  # in the generator's turn
    ("on_train_batch_end", BATCHES + 2),  # in the second step, of whose first there is a file
    ("on_before_optimizer_step", 4),  # in the third
]


@pytest.mark.slow
def test_a_game_against_real_images_is_killed_again_and_again(tmp_path):
    """Generator of two steps, critic, discriminator, averages and what is logged: to the bit."""
    assert in_process("fit", "-c", with_real_images(tmp_path / "whole", 2)).code == 0
    path = with_real_images(tmp_path / "run", 2, STRIKES)
    for _ in STRIKES:
        killed("fit", "-c", path, "--resume", "auto")
    resumed = in_process("fit", "-c", path, "--resume", "auto")
    assert resumed.code == 0, resumed.err
    assert_equal(tmp_path / "whole", tmp_path / "run")


KILLS = 20
LATER = KILLS + 2
"""Steps, of which less than two pass before each kill."""


def play(folder, callbacks=()):
    """DMD2 of two steps on real images, from where the folder's last checkpoint is."""
    torch.manual_seed(0)
    game = CombinedGame({"kl": DMD2(tiny_unet()), "gan": Adversarial(r1=0.1, start=2)}, rollout=Rollout(2))
    second = Critic(networks.Discriminator(tiny_unet()), optimizer=Adam, updates=2)
    module = CriticModule(tiny_unet(), game, second, optimizer=Adam, solvers={"two": ReNoise(2)})
    data = FlowDataModule(Independent(Digits(labels=False)), batch_size=8, device_batch_size=4, seed=3)
    every = [EMA(0.8), Gradients(), LossOverTime(2), LastCheckpoint(1), *callbacks]
    trainer = tiny.trainer(folder, LATER, every, limit_val_batches=0, enable_checkpointing=True)
    last = folder / "checkpoints/last.ckpt"
    trainer.fit(module, data, ckpt_path=str(last) if last.exists() else None)


def play_until_killed(folder):
    """Twenty times, each in a process of its own; then to the end, and once without a disturbance."""
    strikes = Strikes(KILLS, BATCHES, str(folder / "kills"))
    for code in [*KILLS * [-signal.SIGKILL], 0]:
        assert left_alone(play, folder / "run", [strikes]) == code
    assert left_alone(play, folder / "whole") == 0


def left_alone(function, *arguments):
    """Call a function in a fork of this process, which never trains itself; its exit code."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            function(*arguments)
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_game_that_is_killed_twenty_times_is_the_same_to_the_bit(tmp_path):
    """At moments drawn from a seed, in turns of both networks, between their updates and while saving."""
    apart(play_until_killed, tmp_path)
    moments = [line.split() for line in (tmp_path / "kills").read_text().splitlines()]
    assert len(moments) == KILLS
    assert {hook for hook, *_ in moments} == set(Strikes.HOOKS)
    assert {int(batch) for _, batch, _ in moments} == set(range(BATCHES))
    ends = [tmp_path / run / "checkpoints/last.ckpt" for run in ("whole", "run")]
    assert runs.differences(*ends) == []
    content = torch.load(ends[0], weights_only=True)
    assert [state["state"][0]["step"] for state in content["optimizer_states"]] == [LATER, 2 * LATER]


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "k"), [("ddp", 1), ("sharded", 1), ("ddp", 3)])
def test_two_processes_play_against_real_images_as_one(tmp_path, flowlit, strategy, k):
    assert in_process("fit", "-c", with_real_images(tmp_path / "one", k)).code == 0
    two = ("--trainer.devices", "2", "--trainer.strategy", strategy)
    environment = {"PYTHONPATH": f"{runs.HELPERS}:{runs.HELPERS.parents[1]}"}
    done = flowlit("fit", "-c", with_real_images(tmp_path / "two", k), *two, **environment)
    assert done.code == 0, done.err
    assert_weights_close(tmp_path / "one", tmp_path / "two")
