"""Each objective of flow maps in training: killed and resumed to the bit, and the same gradient in two
processes.
"""

import signal

import pytest
import tiny
import torch
from flow_maps import ATTACHED, OBJECTIVES, ON_TRAJECTORIES, guided_student, student
from forks import apart, dead
from matrix import few
from tools import randomise

from flowlit.callbacks import EMA, LastCheckpoint
from flowlit.couplings import Cached, Independent, SeededNoise
from flowlit.data import Digits
from flowlit.modules import FlowDataModule, FlowModule
from flowlit.objectives import RectifiedFlow
from flowlit.solvers import Heun, Jumps

EVERY = {**OBJECTIVES, **ON_TRAJECTORIES, **ATTACHED}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Trajectories of another network, 24 of three states."""
    folder = tmp_path_factory.mktemp("store")
    model = FlowModule(randomise(student(), seed=4), RectifiedFlow(), solvers={"heun": Heun(4)})
    words = {"num": 24, "shard_size": 24, "batch_size": 24, "x0": "float32", "x1": "float32"}
    data = FlowDataModule(Independent(Digits(limit=20, labels=False)), noise=SeededNoise(tiny.SHAPE, 8))
    times = [0.25, 0.75, 1.0]
    tiny.trainer(folder, 1).couple(model, data, store=str(folder / "pairs"), times=times, **words)
    return str(folder / "pairs")


def train(folder, name, store, steps=4, *, dropout=0.2, kill=None, resume=False, optimizer=None, **words):
    """Train with one of the objectives; return the last checkpoint."""
    guided = name == "improved mean flow"
    if name == "trajectories, stored":
        coupling = Cached(store, states=3)
    else:
        coupling = Independent(Digits(limit=24, labels=guided))
    data = FlowDataModule(coupling, batch_size=8, seed=3, noise=noise_of(guided))
    settings = {"solvers": {"jump": Jumps(1)}}
    if optimizer is not None:
        settings["optimizer"] = optimizer
    if guided:
        network = guided_student(dropout=dropout, label_dropout=max(dropout, 1e-6))
    else:
        network = student(dropout=dropout)
    module = FlowModule(network, EVERY[name](), **settings)
    callbacks = [EMA(0.9), LastCheckpoint(2), *([tiny.KillAt(kill)] if kill else [])]
    quiet = {"enable_checkpointing": True, "limit_val_batches": 0, **words}
    last = folder / "checkpoints/last.ckpt"
    tiny.trainer(folder, steps, callbacks, **quiet).fit(module, data, ckpt_path=str(last) if resume else None)
    return torch.load(last, weights_only=True)


def noise_of(guided):
    return SeededNoise(tiny.SHAPE, 4, num_classes=10 if guided else 0)


@pytest.mark.parametrize("name", few([*EVERY], 1))
def test_killed_and_resumed_it_has_the_same_weights_to_the_bit(name, store, tmp_path):
    whole = train(tmp_path / "whole", name, store)
    assert dead(train_until_killed, tmp_path / "torn", name, store) == -signal.SIGKILL
    before = torch.load(tmp_path / "torn/checkpoints/last.ckpt", weights_only=True)
    assert before["global_step"] == 2 and not tiny.same(before["state_dict"], whole["state_dict"])
    resumed = train(tmp_path / "torn", name, store, resume=True)
    assert resumed["global_step"] == whole["global_step"] == 4
    assert tiny.same(resumed["state_dict"], whole["state_dict"])
    moments = [checkpoint["optimizer_states"][0]["state"] for checkpoint in (resumed, whole)]
    for number, state in moments[1].items():
        assert all(torch.equal(moments[0][number][key], value) for key, value in state.items())


def train_until_killed(folder, name, store):
    train(folder, name, store, kill=3)


def gradients(folder, name, store, devices):
    """One step of plain gradient descent without dropout, whose draws every process has for itself."""
    together = {"devices": 2, "strategy": "ddp_fork"} if devices == 2 else {}
    descent = {"optimizer": lambda p: torch.optim.SGD(p, lr=1.0), "dropout": 0.0}
    train(folder, name, store, 1, **descent, **together)


@pytest.mark.parametrize("name", few([*EVERY], 1))
def test_two_processes_have_the_gradient_of_one(name, store, tmp_path):
    begin = (guided_student() if name == "improved mean flow" else student()).state_dict()
    changes = []
    for devices in (1, 2):
        folder = tmp_path / str(devices)
        run = apart if devices == 2 else lambda function, *arguments: function(*arguments)
        run(gradients, folder, name, store, devices)
        after = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        changes.append(torch.cat([(after[f"network.{key}"] - begin[key]).flatten() for key in begin]))
    scale = float(changes[0].norm())
    assert scale > 1e-3, "it learns"
    assert float((changes[1] - changes[0]).norm()) < 1e-4 * scale
