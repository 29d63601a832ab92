"""What several tests share with ``journeys/test_resume.py``."""

from __future__ import annotations

import os
import pkgutil
import random
import signal
from functools import partial
from pathlib import Path

import pytest
import runs
import tiny
from commandline import in_process
from lightning.pytorch.callbacks import Callback

STEPS = 9


def configuration(
    root, module="ReflowStudent", coupling=None, strike=None, workers=0, network=None, every=4, **trainer
):
    callbacks = [tiny.EMA, {"class_path": "flowlit.callbacks.Gradients"}]
    if module != "OneStepStudent":
        callbacks.append({"class_path": "flowlit.callbacks.LossOverTime", "init_args": {"bins": 3}})
    if module == "ReflowStudent":
        callbacks.insert(0, tiny.anneal(8))
    if strike:
        hook, count, signum = strike
        arguments = {"hook": hook, "count": count, "once": str(root) + ".struck", "signum": int(signum)}
        callbacks.append({"class_path": "interrupted.Strike", "init_args": arguments})
    straightness = {"class_path": "flowlit.callbacks.Straightness", "init_args": {"steps": 4}}
    callbacks += [straightness, tiny.checkpoints(every)]
    settings = {
        "accumulate_grad_batches": 2,
        "limit_val_batches": 1.0,
        "val_check_interval": 6,
        "check_val_every_n_epoch": None,
        "log_every_n_steps": 2,
        **trainer,
    }
    data = {"num_workers": workers, "noise": tiny.noise(6), "noise_batch_size": 3}
    content = tiny.fit(root, module, network, coupling, callbacks, steps=STEPS, data=data, **settings)
    by_steps = settings.get("max_steps") != -1
    warm_up = {
        "class_path": "flowlit.schedules.WarmUp",
        "init_args": {"steps": 6, "total": "${trainer.max_steps}" if by_steps else 15},
    }
    content["model"]["init_args"]["lr_scheduler"] = warm_up
    return tiny.write(root.with_suffix(".yaml"), content)


def assert_equal(whole, parts):
    assert runs.differences(whole / "checkpoints/last.ckpt", parts / "checkpoints/last.ckpt") == []
    a, b = runs.logged(whole), runs.logged(parts)
    assert a.keys() == b.keys()
    for tag in a:
        assert a[tag] == b[tag], tag


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody disturbed."""
    root = tmp_path_factory.mktemp("whole") / "run"
    done = in_process("fit", "-c", configuration(root))
    assert done.code == 0, done.err
    return root


class Strike(Callback):
    """Sends its own process a signal the n-th time that a hook is called; only once if a file to remember it
    by is given.
    """

    def __init__(self, hook: str, count: int, once: str, signum: int = signal.SIGKILL):
        self.hook, self.count, self.once, self.signum, self.seen = hook, count, once, signum, 0
        setattr(self, hook, self.strike)

    def strike(self, trainer, *_, **__):
        if trainer.sanity_checking or Path(self.once).exists():
            return
        self.seen += 1
        if self.seen == self.count:
            Path(self.once).touch()
            os.kill(os.getpid(), self.signum)


class StrikeInside(Callback):
    """Kills its own process when a function is called for the n-th time, before it begins; only once."""

    def __init__(self, target: str, count: int, once: str):
        self.target, self.count, self.once, self.seen = target, count, once, 0

    def on_fit_start(self, *_):
        if Path(self.once).exists():
            return
        place, _, name = self.target.rpartition(".")
        owner = pkgutil.resolve_name(place)
        function = getattr(owner, name)

        def counted(*arguments, **named):
            self.seen += 1
            if self.seen == self.count:
                Path(self.once).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **named)

        setattr(owner, name, counted)


class StrikeTwice(Strike):
    def strike(self, trainer, *_, **__):
        super().strike(trainer)
        if self.seen == self.count:
            os.kill(os.getpid(), self.signum)


class Strikes(Callback):
    """Kills its own process, and that of each run that goes on from there: so many times, at moments drawn.

    A moment is a hook, and in how many batches after the start it counts: fewer than two steps. A file has
    a line for each, with the batch of its step.
    """

    HOOKS = (
        "on_train_batch_start",
        "on_after_backward",
        "on_before_optimizer_step",
        "on_train_batch_end",
        "on_save_checkpoint",
    )

    def __init__(self, times: int, batches: int, file: str, seed: int = 0):
        self.times, self.batches, self.file, self.seed = times, batches, Path(file), seed
        for hook in self.HOOKS:
            setattr(self, hook, partial(self.strike, hook))

    def on_fit_start(self, *_):
        self.begun = 0
        self.before = self.file.read_text().splitlines() if self.file.exists() else []
        draw = random.Random(f"{self.seed} {len(self.before)}")
        self.moment = draw.choice(self.HOOKS), draw.randrange(1, 2 * self.batches)

    def strike(self, hook, trainer, *_, **__):
        self.begun += hook == "on_train_batch_start"
        if len(self.before) < self.times and hook == self.moment[0] and self.begun >= self.moment[1]:
            line = f"{hook} {trainer.fit_loop.batch_idx % self.batches} {trainer.global_step}"
            self.file.write_text("\n".join([*self.before, line]))
            os.kill(os.getpid(), signal.SIGKILL)


class Fill(Callback):
    """Fills a disk to the last byte after step 5."""

    def __init__(self, path: str):
        self.path = path

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 5:
            with open(self.path, "wb", buffering=0) as file:
                try:
                    while True:
                        file.write(b"0" * 4096)
                except OSError:
                    pass


class Idle(Callback):
    def __init__(self, path: str):
        pass
