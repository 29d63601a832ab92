"""Runs that go on, and what they write: faults that were found in the hands of others."""

import signal
import warnings
from datetime import timedelta

import pytest
import runs
import tiny
import torch
import yaml
from commandline import in_process
from forks import killed
from interrupted import assert_equal, configuration
from lightning.pytorch.callbacks import ModelCheckpoint
from matrix import few
from watched import rates

from flowlit.callbacks import BestCheckpoint, Gradients
from flowlit.callbacks.training.best import misjudgements
from flowlit.errors import FlowlitError

TORCH = "torch.optim.lr_scheduler."


def experiment(root, steps, scheduler=None, /, callbacks=(), **arguments):
    """A run of some steps whose learning rates are in <root>.txt."""
    watch = {"class_path": "watched.Rates", "init_args": {"path": f"{root}.txt"}}
    content = tiny.fit(root, callbacks=[tiny.EMA, tiny.checkpoints(), watch, *callbacks], steps=steps)
    if scheduler:
        content["model"]["init_args"]["lr_scheduler"] = {"class_path": scheduler, "init_args": arguments}
    return tiny.write(root.with_suffix(".yaml"), content)


LONGER = [
    (f"{TORCH}CosineAnnealingLR", {"T_max": 4}, {"T_max": 8}),
    (f"{TORCH}OneCycleLR", {"max_lr": 0.01, "total_steps": 5}, {"max_lr": 0.01, "total_steps": 10}),
    ("flowlit.schedules.WarmUp", {"steps": 2, "total": 4}, {"steps": 2, "total": 8}),
]


@pytest.mark.journey
@pytest.mark.parametrize(("scheduler", "before", "now"), LONGER)
def test_a_run_made_longer_goes_on_along_the_longer_schedule(tmp_path, scheduler, before, now):
    """The rate was 0 for all further steps, or rose to the very end; the message said "used"."""
    fresh = experiment(tmp_path / "fresh", 8, scheduler, **now)
    assert in_process("fit", "-c", fresh).code == 0
    run = tmp_path / "run"
    assert in_process("fit", "-c", experiment(run, 4, scheduler, **before)).code == 0
    (tmp_path / "run.txt").unlink()
    longer = in_process("fit", "-c", experiment(run, 8, scheduler, **now), "--resume", "auto")
    assert longer.code == 0 and "(used)" in longer.err, longer.err
    expected = rates(tmp_path / "fresh.txt")
    assert rates(tmp_path / "run.txt") == {step: expected[step] for step in range(4, 8)}


@pytest.mark.journey
def test_a_schedule_that_is_added_or_taken_away_is_told_and_followed(tmp_path):
    """Only differences of what both sides had were printed."""
    run = tmp_path / "run"
    assert in_process("fit", "-c", experiment(run, 4)).code == 0
    added = experiment(run, 6, f"{TORCH}StepLR", step_size=5, gamma=0.5)
    outcome = in_process("fit", "-c", added, "--resume", "auto")
    assert "lr_scheduler.init_args.gamma: the checkpoint had nothing, now 0.5 (used)" in outcome.err
    outcome = in_process("fit", "-c", experiment(run, 8), "--resume", "auto")
    assert "lr_scheduler.init_args.gamma: the checkpoint had 0.5, now nothing (used)" in outcome.err
    found = rates(tmp_path / "run.txt")
    assert list(found.values()) == [1e-3] * 5 + [0.5e-3] + [1e-3] * 2


VALUES = {"2": 3.0, "4": 1.0, "6": 2.0, "8": 0.5, "10": 4.0, "12": 3.0}


def judged(root, steps, *callbacks, values=VALUES):
    """A run that validates after every two steps, and logs these values there."""
    scores = {"class_path": "watched.Scores", "init_args": {"values": values}}
    settings = {"limit_val_batches": 1.0, "val_check_interval": 2, "check_val_every_n_epoch": None}
    content = tiny.fit(
        root, callbacks=[tiny.EMA, scores, *callbacks, tiny.checkpoints(3)], steps=steps, **settings
    )
    return tiny.write(root.with_suffix(".yaml"), content)


def step_of(path):
    return torch.load(path, weights_only=True)["global_step"]


LAYER = ("-c", "experiments/parts/keep_best.yaml", "--trainer.callbacks.monitor", "quality/euler2")


@pytest.mark.journey
@pytest.mark.slow
def test_the_best_checkpoint_is_the_best(cli, tmp_path):
    """It was judged by the metric of the validation before."""
    run = tmp_path / "run"
    assert cli("fit", "-c", judged(run, 6), *LAYER).code == 0
    assert step_of(run / "checkpoints/best.ckpt") == 4
    moved = run.rename(tmp_path / "moved")
    assert cli("fit", "-c", judged(moved, 7), *LAYER, "--resume", "auto").code == 0
    assert step_of(moved / "checkpoints/best.ckpt") == 4, "a run that was moved keeps its best"
    assert cli("fit", "-c", judged(moved, 12), *LAYER, "--resume", "auto").code == 0
    assert step_of(moved / "checkpoints/best.ckpt") == 8
    assert sorted(file.name for file in (moved / "checkpoints").iterdir()) == [
        "best.ckpt",
        "last.ckpt",
        "previous.ckpt",
    ]


@pytest.mark.journey
@pytest.mark.parametrize(
    ("hook", "count"), few([("on_validation_batch_end", 4), ("on_train_batch_start", 9)], 1)
)
def test_a_killed_run_keeps_its_best(cli, tmp_path, hook, count):
    """Once before the best is saved, once after, and before the next last.ckpt."""
    once = str(tmp_path / "struck")
    arguments = {"hook": hook, "count": count, "once": once, "signum": 9}
    strike = {"class_path": "interrupted.Strike", "init_args": arguments}
    path = judged(tmp_path / "run", 10, strike)
    killed("fit", "-c", path, *LAYER)
    assert cli("fit", "-c", path, *LAYER, "--resume", "auto").code == 0
    assert step_of(tmp_path / "run/checkpoints/best.ckpt") == 8


@pytest.mark.journey
def test_a_metric_that_nobody_logs_is_one_error(cli, tmp_path):
    words = [*LAYER[:3], "quality/rk45"]
    error = cli("fit", "-c", judged(tmp_path / "run", 4), *words).error
    assert "no validation logs 'quality/rk45'; logged is quality/euler2" in error


@pytest.mark.parametrize("names", [("best", "best"), ("last",), ("previous",), ("a/b",), ("",), ("{step}",)])
def test_best_checkpoints_have_names_of_their_own(tmp_path, names):
    """One of two would overwrite the other."""
    callbacks = [BestCheckpoint(f"quality/{i}", name=name) for i, name in enumerate(names)]
    trainer = tiny.trainer(tmp_path, callbacks=callbacks, enable_checkpointing=True)
    with pytest.raises(FlowlitError, match="BestCheckpoint: name is"):
        for callback in callbacks:
            callback.setup(trainer, None, "fit")


WRONG = [
    ({"every_n_train_steps": 8}, "saves before the validation of its step"),
    ({"train_time_interval": {"seconds": 60}}, "saves before the validation of its step"),
    ({"save_on_train_epoch_end": True}, "saves before the validation of its step"),
    ({"filename": "{step}-{quality/euler2:.2f}"}, "makes folders"),
    ({"filename": "best/{step}", "auto_insert_metric_name": False}, "makes folders"),
    ({"filename": "{step}-{quality/euler2:.2f}", "auto_insert_metric_name": False}, None),
    ({"monitor": "train/loss", "every_n_train_steps": 8}, None),
    ({"monitor": None, "every_n_train_steps": 8}, None),
]


@pytest.mark.parametrize(("settings", "words"), WRONG)
def test_a_checkpoint_callback_that_misjudges_is_warned_of(tmp_path, settings, words):
    """Doctor has the same words."""
    settings = {"monitor": "quality/euler2", **settings}
    if "train_time_interval" in settings:
        settings["train_time_interval"] = timedelta(**settings["train_time_interval"])
    trainer = tiny.trainer(tmp_path, callbacks=[ModelCheckpoint(**settings)], enable_checkpointing=True)
    found = [what for what, _ in misjudgements(trainer)]
    assert len(found) == bool(words) and all(words in what for what in found)


@pytest.mark.journey
def test_fit_and_doctor_warn_of_a_checkpoint_callback_that_misjudges(tmp_path):
    wrong = {"monitor": "quality/euler2", "every_n_train_steps": 2, "filename": "{step}-{quality/euler2:.2f}"}
    callback = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": wrong}
    path = judged(tmp_path / "run", 4, callback)
    outcome = in_process("doctor", "-c", path, "--trust")
    assert "saves before the validation of its step" in outcome.out and "makes folders" in outcome.out
    with pytest.warns(UserWarning, match="saves before the validation"):
        assert in_process("fit", "-c", path).code == 0


@pytest.mark.journey
@pytest.mark.parametrize(("hook", "count"), [("on_fit_end", 1), ("on_validation_batch_end", 4)])
@pytest.mark.slow
def test_every_scalar_is_written_also_those_of_the_end(tmp_path, hook, count):
    """The row in the table of runs was empty if all validations were over before the run was killed."""
    roots = [tmp_path / "whole", tmp_path / "parts"]
    for root in roots:
        strike = None if root is roots[0] else (hook, count, signal.SIGKILL)
        path = configuration(root, strike=strike, accumulate_grad_batches=1, val_check_interval=4)
        content = yaml.safe_load(path.read_text())
        content["trainer"]["callbacks"].append({"class_path": "flowlit.callbacks.Dashboard"})
        tiny.write(path, content)
        if strike:
            killed("fit", "-c", path)
        assert in_process("fit", "-c", path, "--resume", "auto").code == 0
    assert_equal(*roots)
    logged = runs.logged(roots[0])
    assert 9 in logged["straightness/sum"] and 9 in logged["train/loss"]


@pytest.mark.parametrize(("clip", "limit", "times"), [(1.0, 0.5, 1), (None, 0.5, 0), (1.0, None, 0)])
def test_gradients_that_are_clipped_twice_are_warned_of(tmp_path, clip, limit, times):
    """The smaller limit won, without a word."""
    trainer = tiny.trainer(tmp_path, gradient_clip_val=limit)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Gradients(clip=clip).setup(trainer, None, "fit")
    assert len([one for one in caught if "clipped twice" in str(one.message)]) == times
