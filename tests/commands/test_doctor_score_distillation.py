"""The doctor's checks of score distillation."""

from copy import deepcopy
from types import SimpleNamespace

import pytest
import tiny
from tools import tiny_unet
from torch.optim import Adam

from flowlit.commands.doctor import measure
from flowlit.commands.doctor.checks import CHECKS, score_distillation
from flowlit.commands.doctor.examine import subject_of
from flowlit.commands.doctor.report import networks
from flowlit.couplings import Independent
from flowlit.data import Digits
from flowlit.metrics.cost import count_parameters
from flowlit.modules import Critic, CriticModule, FlowDataModule, Teacher
from flowlit.networks import Discriminator
from flowlit.objectives import CombinedGame
from flowlit.objectives.distances import SquaredError
from flowlit.objectives.score_distillation import DMD, ScoreIdentity, SiD
from flowlit.schedules import WarmUp
from flowlit.solvers import Euler


def module(game, network=None, critic=None, scheduler=lambda optimizer: WarmUp(optimizer, 1, wait=5)):
    second = Critic(critic or tiny_unet(width=16))
    return CriticModule(
        network or tiny_unet(), game(tiny_unet(width=16)), second, optimizer=Adam, lr_scheduler=scheduler
    )


def examined(model, trains=True):
    def objectives(kind):
        return [part for part in model.objective.modules() if isinstance(part, kind)]

    subject = SimpleNamespace(model=model, trains=trains, objectives=objectives)
    checks = [check for check in CHECKS if check.__module__ == score_distillation.__name__]
    assert len(checks) == 4
    return [finding for check in checks for finding in check(subject)]


@pytest.mark.parametrize(
    "game", [DMD, SiD, lambda guide: SiD(guide, 1.2), lambda g: CombinedGame({"a": DMD(g)})]
)
def test_a_sound_game_passes(game):
    assert examined(module(game)) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"critic": tiny_unet(width=8)}, "stays as a bias of the student"),
        (
            {"game": lambda guide: ScoreIdentity(guide, SquaredError(), -0.4, normalise=False)},
            "correction -0.4 (α above 1) diverges",
        ),
        ({"network": tiny_unet(dropout=0.1)}, "the generator has dropout"),
        ({"scheduler": None}, "before the critic follows it"),
    ],
)
def test_each_trap_is_named(arguments, words):
    model = module(**{"game": DMD, **arguments})
    (finding,) = examined(model)
    assert finding.level == "warning" and words in finding.what
    assert examined(model, trains=False) == []


def test_other_modules_are_not_concerned():
    assert examined(Teacher(tiny_unet())) == []


def subject(tmp_path, updates=1, critic=None):
    second = Critic(critic or tiny_unet(width=16), updates=updates)
    solvers = {"euler1": Euler(1)}
    model = CriticModule(tiny_unet(), DMD(tiny_unet(width=16)), second, optimizer=Adam, solvers=solvers)
    data = FlowDataModule(Independent(Digits(labels=False)), batch_size=8)
    return subject_of(tiny.trainer(tmp_path, 4), model, data, None, ())


@pytest.mark.slow
def test_networks_that_train_in_turns_keep_activations_in_turns(tmp_path):
    """More updates of the critic need no more memory, and those of a step are not all kept at once."""
    once, thrice = (subject(tmp_path, updates) for updates in (1, 3))
    kept = [measure.memory_of_a_step(each, deepcopy(each.model), 4) for each in (once, thrice)]
    assert 0 < kept[0] == kept[1]
    assert once.measured.weights == thrice.measured.weights
    both = sum(map(count_parameters, (once.model.network, once.model.critic.network)))
    assert once.measured.optimizer > 2 * 4 * both  # Adam's two moments of both networks, in float32


def test_a_step_takes_the_time_of_all_its_turns(tmp_path, monkeypatch):
    """Of two short turns and a long one: their mean, and not what most of them take."""
    examined = subject(tmp_path, updates=2)

    def train(subject, patient, watch, samples, steps):
        watch.times = [1, 2, 9, 10, 11, 18, 19, 20, 27, 28, 29, 36]
        return SimpleNamespace(coupling_seconds=lambda: 0.0)

    monkeypatch.setattr(measure, "train", train)
    assert measure.time_steps(examined, examined.model, 4).seconds == 3


def test_the_table_of_networks_has_critic_and_guide(tmp_path):
    critic = Discriminator(tiny_unet(width=16))
    rows = {row[0]: row[1] for row in networks(subject(tmp_path, critic=critic))[1:]}
    assert rows.keys() == {"network", "guide", "critic"}
    assert rows["critic"] == f"{count_parameters(critic):,}"
    assert int(rows["critic"].replace(",", "")) > int(rows["guide"].replace(",", ""))
