"""The doctor's checks of score distillation."""

from types import SimpleNamespace

import pytest
from tools import tiny_unet
from torch.optim import Adam

from flowlit.commands.doctor.checks import CHECKS, score_distillation
from flowlit.modules import Critic, CriticModule, Teacher
from flowlit.objectives import CombinedGame
from flowlit.objectives.distances import SquaredError
from flowlit.objectives.score_distillation import DMD, ScoreIdentity, SiD
from flowlit.schedules import WarmUp


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
