"""Stopped at any moment, and gone on from there: the same weights, draws and logged values, to the bit."""

import os
import signal

import pytest
import runs
import tiny
import torch
from commandline import in_process
from forks import killed, left
from interrupted import STEPS, Fill, Idle, Strike, StrikeTwice, assert_equal, configuration, whole  # noqa: F401
from matrix import few

pytestmark = pytest.mark.journey


def test_the_undisturbed_run_logs_what_is_compared(whole):
    logged = runs.logged(whole)
    assert sorted(logged["train/loss"]) == [1, 3, 5, 7]
    assert len(logged["straightness/sum"]) == 3 and any(tag.startswith("loss_over_t/") for tag in logged)


MOMENTS = [
    ("on_train_batch_start", 12),
    ("on_train_batch_end", 9),
    ("on_validation_batch_end", 4),
    ("on_train_end", 1),
    ("on_train_batch_start", 1),
    ("on_before_backward", 6),
    ("on_before_optimizer_step", 5),
    ("on_train_batch_end", 8),
    ("on_train_batch_end", 12),
    ("on_validation_start", 2),
    ("on_validation_batch_end", 1),
    ("on_validation_batch_start", 6),
    ("on_validation_end", 1),
    ("on_validation_end", 3),
]


@pytest.mark.parametrize(("hook", "count"), few(MOMENTS, 1))
def test_killed_at_any_moment(tmp_path, whole, hook, count):
    root = tmp_path / "run"
    path = configuration(root, strike=(hook, count, signal.SIGKILL))
    killed("fit", "-c", path, "--resume", "auto")
    resumed = in_process("fit", "-c", path, "--resume", "auto")
    assert resumed.code == 0, resumed.err
    assert_equal(whole, root)


SIGNALLED = [
    ("on_train_batch_start", 4, signal.SIGTERM, 143),
    ("on_validation_end", 2, signal.SIGINT, 130),
    ("on_before_optimizer_step", 5, signal.SIGINT, 130),
    ("on_train_batch_end", 7, signal.SIGUSR1, 138),
    ("on_validation_batch_end", 4, signal.SIGTERM, 143),
    ("on_validation_batch_end", 6, signal.SIGTERM, 143),
]


@pytest.mark.parametrize(("hook", "count", "signum", "code"), few(SIGNALLED, 1))
def test_told_to_stop_at_any_moment(tmp_path, whole, hook, count, signum, code):
    root = tmp_path / "run"
    path = configuration(
        root, strike=(hook, count, signum), every=100
    )  # only the signal, and validations, save
    assert left("fit", "-c", path, "--resume", "auto") == code
    assert in_process("fit", "-c", path, "--resume", "auto").code == 0
    assert_equal(whole, root)


def test_a_signal_waits_for_the_accumulated_batches_of_a_step(tmp_path):
    root = tmp_path / "run"
    path = configuration(
        root, strike=("on_train_batch_start", 4, signal.SIGTERM), every=100, val_check_interval=100
    )
    assert left("fit", "-c", path) == 143
    content = torch.load(root / "checkpoints/last.ckpt", weights_only=True)
    assert content["global_step"] == 2
    assert content["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["ready"] == 4


@pytest.mark.parametrize("signum", few([signal.SIGTERM, signal.SIGINT, signal.SIGUSR1], 1))
def test_a_second_signal_ends_at_once(tmp_path, signum):
    root = tmp_path / "run"
    path = configuration(root, strike=("on_train_batch_start", 2, signum), every=100)
    content = path.read_text().replace("interrupted.Strike", "interrupted.StrikeTwice")
    path.write_text(content)
    assert left("fit", "-c", path) == -signum
    assert not (root / "checkpoints/last.ckpt").exists()


def test_slurm_puts_the_job_back_into_the_queue(tmp_path, monkeypatch):
    root, told = tmp_path / "run", tmp_path / "told"
    scontrol = tmp_path / "bin/scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {told}\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scontrol.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    path = configuration(root, strike=("on_train_batch_start", 4, signal.SIGUSR1), every=100)
    assert left("fit", "-c", path) == 138
    assert told.read_text() == "requeue 4711\n"
    assert torch.load(root / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 2


# which
# checkpoint


def torn(path):
    path.write_bytes(path.read_bytes()[:-500])


def one_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def emptied(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", few([torn, one_bit, emptied], 0))
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(tmp_path, whole, damage):
    root = tmp_path / "run"
    path = configuration(root, strike=("on_train_batch_start", 18, signal.SIGKILL))
    killed("fit", "-c", path)
    damage(root / "checkpoints/last.ckpt")
    resumed = in_process("fit", "-c", path, "--resume", "auto")
    assert resumed.code == 0, resumed.err
    assert "trying the one before it" in resumed.err
    assert "going on from" in resumed.err and "previous.ckpt, step 6" in resumed.err
    assert_equal(whole, root)


def test_without_any_good_checkpoint_nothing_begins(tmp_path):
    root = tmp_path / "run"
    path = configuration(root)
    (root / "checkpoints").mkdir(parents=True)
    (root / "checkpoints/last.ckpt").write_bytes(b"nothing")
    assert "no good checkpoint" in in_process("fit", "-c", path, "--resume", "auto").error
    assert not list(root.glob("events.*"))


def test_resume_and_a_path_exclude_each_other(tmp_path, whole):
    last = whole / "checkpoints/last.ckpt"
    assert (
        "give one of the two"
        in in_process(
            "fit", "-c", configuration(tmp_path / "run"), "--resume", "auto", "--ckpt_path", last
        ).error
    )


def test_the_configuration_of_a_run_serves_other_commands(tmp_path, whole):
    words = ("-c", whole / "config.yaml", "--ckpt_path", whole / "checkpoints/last.ckpt")
    outcome = in_process("validate", *words, "--trainer.logger.save_dir", tmp_path)
    assert outcome.code == 0, outcome.err


def test_a_finished_run_is_left_as_it_is(tmp_path, whole):
    import shutil

    root = tmp_path / "run"
    shutil.copytree(whole, root)
    before = (root / "checkpoints/last.ckpt").read_bytes()
    assert in_process("fit", "-c", configuration(root), "--resume", "auto").code == 0
    assert (root / "checkpoints/last.ckpt").read_bytes() == before


# ------------------------------------------------------------------------------------------------------------
# full disks


@pytest.fixture
def small_disk(tmp_path):
    """A disk of six megabytes."""
    import subprocess

    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", disk], capture_output=True
    ).returncode:
        pytest.skip("mounting a small disk needs privileges")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.slow
def test_a_disk_that_fills_up_costs_no_checkpoint(small_disk, tmp_path, whole):
    root, filler = small_disk / "run", small_disk / "filler"
    path = configuration(root)
    text = path.read_text().replace(
        "callbacks:\n",
        f"callbacks:\n  - class_path: interrupted.Fill\n    init_args: {{path: {filler}}}\n",
        1,
    )
    path.write_text(text)
    assert "space" in in_process("fit", "-c", path).error
    kept = torch.load(root / "checkpoints/last.ckpt", weights_only=True)
    assert kept["global_step"] == 4 and not list((root / "checkpoints").glob(".*.tmp"))
    filler.unlink()
    path.write_text(text.replace("interrupted.Fill", "interrupted.Idle"))
    assert in_process("fit", "-c", path, "--resume", "auto").code == 0
    assert_equal(whole, root)


def test_a_disk_without_room_for_checkpoints_is_refused_before_work(small_disk, tmp_path):
    path = configuration(small_disk / "run", network=tiny.unet(width=64))
    assert "three checkpoints of" in in_process("fit", "-c", path).error


# epochs

EPOCHS = {"max_steps": -1, "max_epochs": 3, "val_check_interval": 1.0, "check_val_every_n_epoch": 1}


@pytest.fixture(scope="module")
def by_epochs(tmp_path_factory):
    """A run of three passes over 40 images, five batches of eight each, with a validation after each."""
    root = tmp_path_factory.mktemp("epochs") / "run"
    done = in_process(
        "fit", "-c", configuration(root, coupling=tiny.digits(limit=40), accumulate_grad_batches=1, **EPOCHS)
    )
    assert done.code == 0, done.err
    return root


EPOCH_MOMENTS = [
    ("on_validation_batch_end", 3, signal.SIGKILL),
    ("on_train_epoch_start", 3, signal.SIGTERM),
    ("on_train_batch_start", 7, signal.SIGKILL),
    ("on_train_batch_end", 8, signal.SIGTERM),
    ("on_train_batch_end", 10, signal.SIGTERM),
    ("on_validation_end", 2, signal.SIGKILL),
    ("on_train_epoch_end", 2, signal.SIGKILL),
    ("on_validation_batch_end", 6, signal.SIGTERM),
]


@pytest.mark.parametrize(("hook", "count", "signum"), few(EPOCH_MOMENTS, 0))
def test_runs_that_count_epochs(tmp_path, by_epochs, hook, count, signum):
    root = tmp_path / "run"
    arguments = {"coupling": tiny.digits(limit=40), "accumulate_grad_batches": 1, **EPOCHS}
    path = configuration(root, strike=(hook, count, signum), **arguments)
    assert left("fit", "-c", path, "--resume", "auto") == (-9 if signum == signal.SIGKILL else 128 + signum)
    resumed = in_process("fit", "-c", path, "--resume", "auto")
    assert resumed.code == 0, resumed.err
    assert_equal(by_epochs, root)


# the
# command line


@pytest.mark.slow
def test_resume_may_stand_in_the_yaml_and_every_fit_can_be_resumed(tmp_path, whole):
    """Also one that names no checkpoint callback."""
    root = tmp_path / "run"
    path = configuration(root, strike=("on_train_batch_start", 9, signal.SIGTERM))
    text = path.read_text()
    keeper = (
        "  - class_path: flowlit.callbacks.LastCheckpoint\n    init_args:\n      every_n_train_steps: 4\n"
    )
    assert keeper in text
    path.write_text("resume: auto\n" + text.replace(keeper, ""))
    assert left("fit", "-c", path) == 143
    assert torch.load(root / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 5
    resumed = in_process("fit", "-c", path)
    assert resumed.code == 0 and "going on from" in resumed.err
    assert_equal(whole, root)


def test_starting_afresh_over_an_earlier_run_is_told(tmp_path):
    path = tiny.write(tmp_path / "run.yaml", tiny.fit(tmp_path / "run"))
    first, second = in_process("fit", "-c", path), in_process("fit", "-c", path)
    assert "starting afresh" not in first.err
    assert f"starting afresh; the earlier run is in {tmp_path / 'run/earlier/1'} now" in second.err


@pytest.mark.parametrize(
    ("signum", "hook"),
    [
        (signal.SIGTERM, "on_validation_batch_end"),
        (signal.SIGINT, "on_validation_batch_end"),
        (signal.SIGTERM, "on_validation_start"),  # where a reference is made
    ],
)
def test_other_commands_end_at_once(tmp_path, signum, hook):
    class_path = "interrupted.Strike"
    arguments = {
        "hook": hook,
        "count": 1,
        "once": str(tmp_path / "struck"),
        "signum": int(signum),
    }
    callbacks = [{"class_path": class_path, "init_args": arguments}]
    data = {"noise": tiny.noise(6), "noise_batch_size": 3}
    content = tiny.fit(
        tmp_path / "run", callbacks=callbacks, data=data, limit_val_batches=1.0, enable_checkpointing=False
    )
    path = tiny.write(tmp_path / "run.yaml", content)
    assert left("validate", "-c", path, "--untrained", "true") in (-signum, 128 + signum)


def test_a_corrupt_checkpoint_that_was_chosen_is_refused(tmp_path, whole):
    chosen = tmp_path / "chosen.ckpt"
    chosen.write_bytes((whole / "checkpoints/last.ckpt").read_bytes())
    one_bit(chosen)
    error = in_process("fit", "-c", configuration(tmp_path / "run"), "--ckpt_path", chosen).error
    assert "is corrupt" in error and "--resume auto" in error


def test_a_checkpoint_of_weights_alone_is_no_run_to_go_on_with(tmp_path, whole):
    content = torch.load(whole / "checkpoints/last.ckpt", weights_only=True)
    torch.save({key: content[key] for key in ("state_dict", "flowlit")}, tmp_path / "weights.ckpt")
    error = in_process(
        "fit", "-c", configuration(tmp_path / "run"), "--ckpt_path", tmp_path / "weights.ckpt"
    ).error
    assert "holds weights only" in error and "pretrained" in error


@pytest.mark.slow
def test_epochs_cut_short_are_resumed_where_they_stopped(tmp_path):
    """With limit_train_batches the rows of a resumed second epoch were others."""
    arguments = {
        **EPOCHS,
        "max_epochs": 3,
        "limit_train_batches": 4,
        "accumulate_grad_batches": 1,
        "coupling": tiny.digits(limit=80),
    }
    assert in_process("fit", "-c", configuration(tmp_path / "whole", **arguments)).code == 0
    path = configuration(tmp_path / "parts", strike=("on_train_batch_start", 7, signal.SIGTERM), **arguments)
    assert left("fit", "-c", path) == 143
    assert in_process("fit", "-c", path, "--resume", "auto").code == 0
    assert_equal(tmp_path / "whole", tmp_path / "parts")


def test_a_bit_in_the_directory_of_a_checkpoint_is_found_too(tmp_path, whole):
    """It was a UnicodeDecodeError."""
    import shutil

    content = (whole / "checkpoints/last.ckpt").read_bytes()
    root = tmp_path / "run"
    (root / "checkpoints").mkdir(parents=True)
    shutil.copy(whole / "checkpoints/previous.ckpt", root / "checkpoints/previous.ckpt")
    place = content.rindex(b"PK\x01\x02") + 46 + 2  # in the name of the last entry
    (root / "checkpoints/last.ckpt").write_bytes(
        content[:place] + bytes([content[place] ^ 128]) + content[place + 1 :]
    )
    resumed = in_process("fit", "-c", configuration(root), "--resume", "auto")
    assert resumed.code == 0 and "previous.ckpt" in resumed.err


def test_a_run_with_another_folder_each_time_cannot_be_resumed_by_itself(tmp_path):
    path = tiny.write(tmp_path / "run.yaml", tiny.fit(tmp_path / "run", steps=1))
    path.write_text(path.read_text().replace("version: ''", "version: null"))
    assert "another folder each time" in in_process("fit", "-c", path, "--resume", "auto").error
    assert in_process("fit", "-c", path).code == 0


def test_resume_is_for_fit(tmp_path):
    assert (
        "--ckpt_path"
        in in_process("validate", "-c", configuration(tmp_path / "run"), "--resume", "auto").error
    )


def test_resume_without_checkpoints_is_refused(tmp_path):
    content = tiny.fit(tmp_path / "run", callbacks=[], enable_checkpointing=False)
    assert (
        "no checkpoints"
        in in_process("fit", "-c", tiny.write(tmp_path / "run.yaml", content), "--resume", "auto").error
    )
