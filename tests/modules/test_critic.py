"""A generator and its critic, trained in turns."""

from __future__ import annotations

from copy import deepcopy

import pytest
import tiny
import torch
from commandline import in_process
from games import Discriminator, Game, Matching, duel
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from tools import tiny_unet
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import StepLR

import flowlit
from flowlit import networks
from flowlit.callbacks import EMA, Anneal, Gradients, LastCheckpoint, LossOverTime, Progress, Rollback
from flowlit.couplings import Independent, SeededNoise
from flowlit.data import Digits
from flowlit.errors import Diverged, FlowlitError
from flowlit.frozen import Frozen
from flowlit.modules import Critic, CriticModule, FlowDataModule, FlowModule
from flowlit.objectives import CombinedGame, RectifiedFlow, Rollout
from flowlit.objectives.distances import VectorPseudoHuber
from flowlit.objectives.score_distillation import DMD, TDM, Adversarial, RealUID, SiD
from flowlit.schedules import Linear, WarmUp
from flowlit.solvers import Euler


def players(updates=2, objective=None, critic=None, **options):
    """A module of ``Game``, the same weights each time."""
    torch.manual_seed(0)
    network = tiny.Affine()
    second = critic or Critic(Discriminator(), optimizer=lambda p: SGD(p, lr=0.1), updates=updates)
    first = {"optimizer": lambda p: SGD(p, lr=0.05), **options}
    return CriticModule(network, objective or Game(), second, **first)


def data(**arguments):
    return FlowDataModule(Independent(Digits(labels=False)), batch_size=8, seed=1, **arguments)


def fit(tmp_path, module, steps=3, callbacks=(), batches=None, **arguments):
    trainer = tiny.trainer(tmp_path, steps, callbacks, limit_val_batches=0, **arguments)
    trainer.fit(module, datamodule=batches or data())
    return trainer


class Watch(Callback):
    """After each batch: which weights have moved, and which gradients there are."""

    def __init__(self):
        self.moved = []
        self.gradients = []
        self.before = {}

    def on_train_batch_end(self, trainer, pl_module, *_):
        now = {name: deepcopy(part.state_dict()) for name, part in self.parts(pl_module).items()}
        for state in now.values():
            state.pop("calls", None)
        if self.before:
            self.moved.append([name for name in now if not tiny.same(now[name], self.before[name])])
        self.before = now
        parts = self.parts(pl_module).items()
        graded = [name for name, part in parts if any(p.grad is not None for p in part.parameters())]
        self.gradients.append(graded)
        trained = [*pl_module.network.parameters(), *pl_module.critic.parameters()]
        assert all(p.requires_grad for p in trained)

    @staticmethod
    def parts(module):
        return {"network": module.network, "critic": module.critic, "ema": module.ema}


def test_each_turn_trains_one_network_alone(tmp_path):
    watch = Watch()
    fit(tmp_path, players(), 3, [EMA(decay=0.5, warmup=False), watch])
    turns = [["critic"], ["critic"], ["network", "ema"]]
    assert watch.moved == (3 * turns)[1:]
    assert watch.gradients == 3 * [["critic"], ["critic"], ["network"]]


def test_a_step_is_an_update_of_the_generator(tmp_path):
    """``max_steps``, Lightning's own checkpoints, β, averages and schedulers all count them."""
    seen = []

    class Record(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            seen.append((trainer.global_step, pl_module.objective.strength, pl_module.averages.updates()))

    often = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)
    second = Critic(Discriminator(), None, lambda p: SGD(p, lr=0.1), lambda o: StepLR(o, 1, 0.5), updates=2)
    module = players(critic=second, lr_scheduler=lambda o: StepLR(o, 1, 0.5))
    callbacks = [Anneal(Linear(4, 1.0, 0.0), "objective.strength"), EMA(), often, Record()]
    trainer = fit(tmp_path, module, 4, callbacks, enable_checkpointing=True)
    turns = [(step, step + (turn == 2)) for step in range(4) for turn in range(3)]
    expected = [(done, 1 - step / 4, done) for step, done in turns]
    assert seen == expected
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["step=2.ckpt", "step=4.ckpt"]
    rates = [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers]
    assert rates == pytest.approx([0.05 * 0.5**4, 0.1 * 0.5**8])


@pytest.mark.parametrize("wait", [0, 3])
def test_a_generator_that_waits_begins_afresh(tmp_path, wait):
    """Adam would divide its steps by gradients of before, when the critic did not follow it: large ones."""
    second = Critic(Discriminator(), optimizer=lambda p: Adam(p, lr=0.1), updates=2)
    first = {"optimizer": lambda p: Adam(p, lr=0.01), "lr_scheduler": lambda o: WarmUp(o, 1, wait=wait)}
    module = players(critic=second, **first)
    before = module.network.mix.weight.detach().clone()
    trainer = fit(tmp_path, module, wait + 1)
    moved = (module.network.mix.weight - before).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.01), rtol=1e-3, atol=0)
    taken = [{int(state["step"]) for state in one.state.values()} for one in trainer.optimizers]
    assert taken == [{1}, {2 * (wait + 1)}]


def test_progress_counts_steps_and_validations_come_by_steps(tmp_path):
    validated = []

    class Record(Callback):
        def on_validation_start(self, trainer, pl_module):
            validated.append(trainer.global_step)

    bar = Progress()
    batches = data(noise=SeededNoise(tiny.SHAPE, 4), device_batch_size=4)
    settings = {"val_check_interval": 2, "check_val_every_n_epoch": None}
    trainer = tiny.trainer(tmp_path, 6, [bar, Record()], enable_progress_bar=True, **settings)
    trainer.fit(players(), datamodule=batches)
    assert validated == [2, 4, 6]
    assert bar.train_progress_bar.n == bar.train_progress_bar.total == 6
    assert (trainer.accumulate_grad_batches, trainer.val_check_interval) == (1, 2)


@pytest.mark.parametrize("rows", [4, 2])
def test_accumulated_parts_make_the_same_updates(tmp_path, rows):
    """Of both networks, with the same noise for each row, up to the order of a sum."""
    modules = [players(), players()]
    fit(tmp_path, modules[0], 3)
    fit(tmp_path, modules[1], 3, batches=data(device_batch_size=rows))
    one, other = (module.state_dict() for module in modules)
    for key in one:
        torch.testing.assert_close(one[key], other[key], rtol=1e-5, atol=1e-6) if "calls" not in key else None


def test_each_update_takes_rows_of_its_own(tmp_path):
    seen = []

    class Record(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen.extend(float(x0.sum()) for x0 in batch.x0)

    fit(tmp_path, players(), 2, [Record()])
    assert len(seen) == len(set(seen)) == 2 * 3 * 8


def test_the_mean_losses_of_a_step_are_logged(tmp_path):
    trainer = fit(tmp_path, players(), 1)
    names = {"train/loss", "train/size", "train/critic_loss", "train/critic_real"}
    assert names <= trainer.logged_metrics.keys()


def test_one_batch_is_enough_for_a_dry_run(tmp_path):
    trainer = fit(tmp_path, players(), batches=data(noise=SeededNoise(tiny.SHAPE, 4)), fast_dev_run=1)
    assert trainer.global_step == 1


class Broken(Callback):
    """Puts a NaN into the gradients of one network, in one batch."""

    def __init__(self, player, batch):
        self.player = player
        self.batch = batch

    def on_after_backward(self, trainer, pl_module):
        if trainer.fit_loop.batch_idx == self.batch:
            next(getattr(pl_module, self.player).parameters()).grad.view(-1)[0] = float("nan")


@pytest.mark.parametrize(("player", "batch"), [("critic", 3), ("network", 5)])
@pytest.mark.parametrize("nonfinite", ["skip", "repair"])
def test_bad_gradients_are_handled_for_the_network_whose_turn_it_is(tmp_path, player, batch, nonfinite):
    gradients = Gradients(nonfinite=nonfinite)
    watch = Watch()
    trainer = fit(tmp_path, players(), 3, [Broken(player, batch), gradients, watch])
    assert (int(gradients.bad_steps), int(gradients.bad_entries)) == (1, 1)
    turns = 3 * [["critic"], ["critic"], ["network"]]
    turns[batch] = [] if nonfinite == "skip" else turns[batch]
    assert watch.moved == turns[1:]
    assert {"gradients/norm", "gradients/critic_norm", "gradients/bad_steps"} <= trainer.logged_metrics.keys()


def test_the_norm_of_each_network_is_clipped(tmp_path):
    norms = []

    class Record(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            grads = [p.grad for p in pl_module.parameters() if p.grad is not None]
            norms.append(float(torch.nn.utils.get_total_norm(grads)))

    fit(tmp_path, players(), 1, [Gradients(clip=1e-3), Record()])
    assert norms == pytest.approx(3 * [1e-3], rel=1e-4)


@pytest.mark.parametrize(("clip", "share"), [(1e-3, 1), (1e3, 0)])
def test_the_share_of_clipped_updates_is_logged_for_each_network(tmp_path, clip, share):
    gradients = Gradients(clip=clip)
    trainer = fit(tmp_path, players(), 3, [gradients], log_every_n_steps=2)
    logged = [trainer.logged_metrics[f"gradients/{player}clipped"] for player in ("", "critic_")]
    assert logged == [share, share]
    after = gradients.state_dict()["clipped"]  # of the third step
    assert after == {"": [share, 1], "critic_": [2 * share, 2]}
    again = Gradients(clip=clip)
    again.load_state_dict(gradients.state_dict())
    assert again.state_dict() == gradients.state_dict()


def test_a_checkpoint_of_after_the_fit_is_that_of_its_last_step(tmp_path):
    """Also if batches are in parts: Lightning's accumulation is taken back by then."""
    whole, parts, resumed = players(), players(), players()
    fit(tmp_path, whole, 5, batches=data(device_batch_size=4))
    trainer = fit(tmp_path, parts, 3, batches=data(device_batch_size=4))
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    state = torch.load(tmp_path / "after.ckpt", weights_only=True)["FlowDataModule"]
    assert state == {"batch_size": 8, "accumulated": 6, "batches": 18, "rows": 72}
    trainer = tiny.trainer(tmp_path, 5, limit_val_batches=0)
    trainer.fit(resumed, datamodule=data(device_batch_size=4), ckpt_path=str(tmp_path / "after.ckpt"))
    assert tiny.same(whole.state_dict(), resumed.state_dict())


GAMES = {
    "reverse KL": DMD,
    "score identity": SiD,
    "real images": RealUID,
    "along the trajectory": lambda guide: TDM(guide, Rollout(1), distance=VectorPseudoHuber()),
}


@pytest.mark.parametrize("game", GAMES)
def test_the_direction_is_seen_by_time_beside_both_losses(tmp_path, game):
    """It is 0 as long as the critic is the guide, and their difference is known where it is not."""
    times = LossOverTime(1)
    guide = tiny.Affine()
    for shift in (0.0, 0.5):
        second = Critic(deepcopy(guide).requires_grad_(True), optimizer=lambda p: SGD(p, lr=0.0), updates=1)
        with torch.no_grad():
            second.network.mix.bias += shift
        module = players(objective=GAMES[game](guide), critic=second, solvers={"euler1": Euler(1)})
        fit(tmp_path, module, 2, [times], log_every_n_steps=9)
        total, count = times._binned["_direction"].sums
        assert times._binned.keys() == {"", "_critic", "_direction"}
        assert not any(binned.empty for binned in times._binned.values())
        torch.testing.assert_close(total, shift * count)
        assert int(count) == 2 * 8


def test_an_objective_that_starts_later_reports_later(tmp_path):
    """The loss over time of a discriminator's game is logged once there is one."""
    times = LossOverTime(1)
    parts = {"kl": DMD(tiny.Affine()), "gan": Adversarial(start=3)}
    second = Critic(networks.Discriminator(tiny_unet()), optimizer=lambda p: SGD(p, lr=0.0), updates=1)
    module = players(objective=CombinedGame(parts), critic=second, solvers={"euler1": Euler(1)})
    fit(tmp_path, module, 3, [times], log_every_n_steps=2)
    assert times._binned["_gan"].empty and not times._binned["_kl_critic"].empty
    fit(tmp_path, module, 4, [times], log_every_n_steps=9)
    assert not times._binned["_gan"].empty


def matching(tmp_path=None):
    guide = Frozen(tiny.Affine())
    second = Critic(tiny.Affine(), RectifiedFlow(), lambda p: Adam(p, lr=1e-2), updates=3)
    return players(objective=Matching(guide), critic=second), guide


def test_a_critic_with_an_objective_follows_the_generators_samples(tmp_path):
    """Score distillation: the guide stays as it is, and has no gradients."""
    module, guide = matching()
    before = deepcopy(list(guide.network.parameters()))
    times = LossOverTime()
    trainer = fit(tmp_path, module, 5, [times])
    assert times._binned.keys() == {"_critic"} and not times._binned["_critic"].empty
    assert all(torch.equal(a, b) for a, b in zip(before, guide.network.parameters(), strict=True))
    assert trainer.callback_metrics["train/critic_loss"] > 0
    assert all(p.grad is None for p in guide.network.parameters())


def test_a_critic_without_any_loss_is_refused(tmp_path):
    module = players(objective=Matching(Frozen(tiny.Affine())))
    with pytest.raises(FlowlitError, match=r"Matching has no loss for a critic; .* critic.objective"):
        fit(tmp_path, module, 1)


def test_two_players_need_a_module_of_two(tmp_path):
    with pytest.raises(FlowlitError, match=r"Game trains a generator and a critic; expected .*CriticModule"):
        fit(tmp_path, FlowModule(tiny.Affine(), Game()), 1)


def test_a_critic_that_never_learns_is_refused(tmp_path):
    with pytest.raises(FlowlitError, match="Critic: updates is 0; expected a whole number > 0"):
        fit(tmp_path, players(updates=0), 1)


def test_gradients_come_back_after_an_error(tmp_path):
    """A run that goes on in the same process finds both networks trainable."""

    class Fail(Game):
        def student_loss(self, generator, critic, pair):
            raise Diverged("found trouble")

    module = players(objective=Fail())
    with pytest.raises(Diverged):
        fit(tmp_path, module, 1)
    assert all(p.requires_grad for part in (module.network, module.critic) for p in part.parameters())


def test_rollback_goes_on_in_the_same_process(tmp_path):
    class Spike(Game):
        """Fails once, at the generator's fourth update."""

        updates = 0

        def student_loss(self, generator, critic, pair):
            losses = super().student_loss(generator, critic, pair)
            self.updates += 1
            return {**losses, "loss": losses["loss"] * (float("inf") if self.updates == 4 else 1)}

    rollback = Rollback(window=1)
    module = players(objective=Spike())
    callbacks = [rollback, LastCheckpoint(2), Gradients()]
    trainer = tiny.trainer(tmp_path, 6, callbacks, limit_val_batches=0, enable_checkpointing=True)
    trainer.fit(module, datamodule=data(device_batch_size=4))
    assert (rollback.rollbacks, trainer.global_step) == (1, 6)
    assert [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers] == pytest.approx(
        [0.025, 0.05]
    )


def test_checkpoints_load_as_generators_and_the_configuration_wins(tmp_path):
    """The optimizer of each network is overridden by its own part of the configuration."""
    root = tmp_path / "run"
    path = tiny.write(tmp_path / "run.yaml", duel(root))
    assert in_process("fit", "-c", path).code == 0
    last = root / "checkpoints/last.ckpt"
    content = torch.load(last, weights_only=True)
    assert [state["state"][0]["step"] for state in content["optimizer_states"]] == [4, 8]
    assert tiny.same(flowlit.load(last).network.state_dict(), module_part(content["state_dict"], "ema."))
    changed = duel(root, steps=5)
    changed["model"]["init_args"]["critic"]["init_args"]["optimizer"]["init_args"]["lr"] = 1e-3
    done = in_process("fit", "-c", tiny.write(path, changed), "--resume", "auto")
    assert done.code == 0, done.err
    assert "critic.init_args.optimizer.init_args.lr: the checkpoint had 0.002, now 0.001" in done.err
    groups = [state["param_groups"][0] for state in torch.load(last, weights_only=True)["optimizer_states"]]
    assert [group["lr"] for group in groups] == [1e-3, 1e-3]


def test_a_run_goes_on_with_another_number_of_updates(tmp_path):
    """Batches are counted as if there had been so many from the start, and steps stay steps."""
    root = tmp_path / "run"
    assert in_process("fit", "-c", tiny.write(tmp_path / "run.yaml", duel(root, steps=3))).code == 0
    path = tiny.write(tmp_path / "run.yaml", duel(root, updates=1, steps=5))
    resumed = in_process("fit", "-c", path, "--resume", "auto")
    assert resumed.code == 0, resumed.err
    content = torch.load(root / "checkpoints/last.ckpt", weights_only=True)
    assert content["global_step"] == 5
    assert [state["state"][0]["step"] for state in content["optimizer_states"]] == [5, 3 * 2 + 2]
    assert content["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["ready"] == 5 * 2


def module_part(state, prefix):
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def test_the_doctor_examines_both(tmp_path):
    path = tiny.write(tmp_path / "run.yaml", duel(tmp_path / "run"))
    done = in_process("doctor", "-c", path, "--trust")
    assert done.code == 0, done.err + done.out
