"""Hostile changes of a run that goes on, and second writers of what is being written."""

import os
from types import SimpleNamespace
from unittest import mock

import games
import tiny
import torch
from commandline import in_process
from torch.optim import lr_scheduler

from flowlit._support.files import building
from flowlit._support.locks import locked_folder, locked_target, refuse_at_work
from flowlit.callbacks import BestCheckpoint
from flowlit.commands.trainer import FlowTrainer
from flowlit.modules import Critic, CriticModule
from flowlit.modules.overrides import override
from flowlit.schedules import WarmUp
from flowlit.types import Pair

from .row import Row

ADAM = "torch.optim.Adam"


def _resumed(make, optimizer=ADAM, before=None, steps=6):
    """A run that is resumed after some steps with another scheduler, or another optimizer."""

    def attempt(folder):
        network = torch.nn.Linear(1, 1)
        player = SimpleNamespace(
            network=network, make_optimizer=lambda p: torch.optim.Adam(p, lr=0.1), make_scheduler=make
        )
        state = torch.optim.Adam(network.parameters(), lr=0.1).state_dict()
        checkpoint = {"global_step": steps, "optimizer_states": [state], "lr_schedulers": []}
        old = {"optimizer": {"class_path": before or ADAM}, "lr_scheduler": None}
        now = {"optimizer": {"class_path": optimizer}, "lr_scheduler": {"class_path": "another"}}
        return override(checkpoint, [player], [old], [now])

    return attempt


ENDED = {
    f"OneCycleLR of {total} steps": (lambda o, total=total: lr_scheduler.OneCycleLR(o, 0.1, total))
    for total in (1, 2, 5)
}
METRIC = {
    "ReduceLROnPlateau": lr_scheduler.ReduceLROnPlateau,
    "ReduceLROnPlateau, max": lambda o: lr_scheduler.ReduceLROnPlateau(o, "max"),
}
FLOORS = {
    f"WarmUp with floor {floor} and total {total}": (
        lambda o, floor=floor, total=total: WarmUp(o, 2, total, floor)
    )
    for floor, total in [(-0.1, 9), (1.0, 9), (2.0, 9), (float("nan"), 9), (0.5, None)]
}


def _second(first, second):
    def attempt(folder):
        with first(folder):
            return second(folder)

    return attempt


def _enter(place):
    def attempt(folder):
        with place(folder):
            return "entered"

    return attempt


def _command(*words):
    return lambda folder: in_process(*(word.replace("{}", str(folder)) for word in words))


def _target(folder):
    return locked_target(folder / "new.safetensors")


MADE = {
    "convert": _command("convert", "{}/x.ckpt", "--into", "{}/new.safetensors"),
    "average": _command("average", "{}", "--std", "0.1", "--into", "{}/new.safetensors"),
    "merge, export": _enter(lambda folder: building(folder / "new.safetensors")),
}

ROWS = [
    *(
        Row(f"training: resumed with a {name}", _resumed(make), ("cannot go on from step 6", "OneCycleLR"))
        for name, make in ENDED.items()
    ),
    *(Row(f"training: resumed with {name}", _resumed(make), ("metric",)) for name, make in METRIC.items()),
    *(Row(f"training: resumed with {name}", _resumed(make), ("WarmUp",)) for name, make in FLOORS.items()),
    *(
        Row(f"training: resumed with {optimizer}", _resumed(None, optimizer), (optimizer, "pretrained"))
        for optimizer in ("torch.optim.SGD", "torch.optim.AdamW", "torch.optim.RMSprop", "my.Adam")
    ),
    *(
        Row(
            f"training: the best by {mode!r}",
            lambda folder, mode=mode: BestCheckpoint("a/b", mode),
            ("mode",),
        )
        for mode in ("", "mean", "MIN", None, 0, float("nan"))
    ),
    *(
        Row(
            f"folders: a second {command}",
            _second(
                lambda folder, command=command: locked_folder(folder, command, ""),
                _enter(lambda folder, command=command: locked_folder(folder, command, "choose another")),
            ),
            (f"another {command} is writing there", "process", "choose another"),
        )
        for command in ("fit", "predict")
    ),
    Row(
        "folders: a stage that is moved while it trains",
        _second(lambda folder: locked_folder(folder, "fit", ""), refuse_at_work),
        ("another process (process", "is writing there"),
    ),
    *(
        Row(
            f"folders: {name} of what is being made",
            _second(_target, attempt),
            ("another process is making",),
        )
        for name, attempt in MADE.items()
    ),
]
ROWS += [
    Row(
        f"training: the strategy {name}",
        lambda folder, name=name: FlowTrainer(strategy=name, accelerator="cpu", devices=2, logger=False),
        ("spawns its processes", "choose ddp"),
    )
    for name in ("ddp_spawn", "ddp_spawn_find_unused_parameters_true")
]
ROWS += [
    Row(
        f"training: a time limit of {seconds} s",
        lambda folder, seconds=seconds: FlowTrainer(max_time={"seconds": seconds}, logger=False),
        ("trainer.max_time", "more than 0"),
    )
    for seconds in (0, -3)
]


def _nodes(command):
    """A command on two nodes that nothing but a test has started: it waited for the second one for ever."""

    def attempt(folder):
        with mock.patch.dict(os.environ):
            for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "GROUP_RANK"):
                os.environ.pop(name, None)
            trainer = FlowTrainer(num_nodes=2, accelerator="cpu", devices=1, logger=False)
            return getattr(trainer, command)(None)

    return attempt


def _game(x0, x1):
    """A turn of a critic on a pair whose ends would be broadcast."""

    def attempt(folder):
        critic = Critic(games.Discriminator())
        module = CriticModule(tiny.Affine(), games.Game(), critic)
        return module.training_step(Pair(torch.zeros(x0), torch.zeros(x1)), 0)

    return attempt


ROWS += [
    *(
        Row(
            f"training: {command} on nodes without processes",
            _nodes(command),
            ("num_nodes is 2", "torchrun"),
        )
        for command in ("fit", "validate", "test", "predict")
    ),
    *(
        Row(f"training: a game on pairs of {x0} and {x1}", _game(x0, x1), ("x0 and x1", str(x0), str(x1)))
        for x0, x1 in (
            ((2, 1, 8, 8), (2, 1, 1, 8)),
            ((2, 1, 8, 8), (1, 1, 8, 8)),
            ((2, 1, 8, 8), (2, 3, 8, 8)),
            ((0, 1, 8, 8), (0, 1, 8, 8)),
        )
    ),
]
