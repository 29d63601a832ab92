"""Several processes: they train as one does, and go on from where any number of others stopped."""

import re
import signal

import pytest
import runs
import tiny
import torch
from interrupted import assert_equal, configuration

pytestmark = [pytest.mark.journey, pytest.mark.slow]
TWO = ("--trainer.devices", "2", "--trainer.strategy", "ddp")


def fit(flowlit, path, *words, code=0):
    done = flowlit("fit", "-c", path, *words, PYTHONPATH=str(runs.HELPERS))
    assert done.code == code, done.err
    return done


@pytest.fixture(scope="module")
def pairs_of_runs(tmp_path_factory):
    """One process with the whole batch, one that accumulates it, and two that share it."""
    import os
    import subprocess
    import sys

    from commandline import REPOSITORY

    root = tmp_path_factory.mktemp("devices")
    ways = {
        "one": (),
        "accumulated": ("--trainer.accumulate_grad_batches", "1", "--data.device_batch_size", "2"),
        "two": TWO,
    }
    for name, words in ways.items():
        path = configuration(
            root / name, accumulate_grad_batches=1, val_check_interval=3, log_every_n_steps=1
        )
        command = [sys.executable, "-m", "flowlit", "fit", "-c", str(path), *words]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(runs.HELPERS)},
        )
        assert done.returncode == 0, done.stderr
    return root


@pytest.mark.parametrize("name", ["accumulated", "two"])
def test_any_division_of_the_batch_gives_the_same_training(pairs_of_runs, name):
    """Not to the bit: gradients are summed in another order."""
    one, other = runs.logged(pairs_of_runs / "one"), runs.logged(pairs_of_runs / name)
    assert one.keys() == other.keys()
    for tag in ("train/loss", "gradients/norm", "straightness/sum"):
        a, b = (torch.tensor([run[tag][step] for step in sorted(one[tag])]) for run in (one, other))
        torch.testing.assert_close(a, b, rtol=2e-5, atol=1e-6, msg=lambda text, tag=tag: f"{tag}: {text}")
    a, b = (tiny.weights(pairs_of_runs / run / "checkpoints/last.ckpt") for run in ("one", name))
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("hook", "count", "signum", "code"),
    [
        ("on_train_batch_start", 6, signal.SIGKILL, -9),
        ("on_train_batch_end", 5, signal.SIGTERM, 143),
        ("on_validation_batch_end", 2, signal.SIGKILL, -9),
        ("on_validation_batch_start", 1, signal.SIGTERM, 143),  # only one of them hears it
    ],
)
def test_two_processes_go_on_to_the_same_bits(tmp_path, flowlit, pairs_of_runs, hook, count, signum, code):
    settings = {"accumulate_grad_batches": 1, "val_check_interval": 3, "log_every_n_steps": 1}
    path = configuration(tmp_path / "two", strike=(hook, count, signum), **settings)
    stopped = flowlit("fit", "-c", path, *TWO, "--resume", "auto", PYTHONPATH=str(runs.HELPERS))
    assert stopped.code != 0 if code < 0 else stopped.code == code, (
        stopped.err
    )  # whichever of the two was killed
    fit(flowlit, path, *TWO, "--resume", "auto")
    assert_equal(pairs_of_runs / "two", tmp_path / "two")


@pytest.mark.parametrize(("before", "after"), [(TWO, ()), ((), TWO)])
def test_a_run_goes_on_with_another_number_of_processes(tmp_path, flowlit, pairs_of_runs, before, after):
    settings = {"accumulate_grad_batches": 1, "val_check_interval": 3, "log_every_n_steps": 1}
    path = configuration(tmp_path / "run", strike=("on_train_batch_start", 6, signal.SIGTERM), **settings)
    fit(flowlit, path, *before, "--resume", "auto", code=143)
    fit(flowlit, path, *after, "--resume", "auto")
    one, other = runs.logged(pairs_of_runs / "one"), runs.logged(tmp_path / "run")
    assert one.keys() == other.keys()
    for tag in ("train/loss", "gradients/norm", "straightness/sum"):
        a, b = (torch.tensor([run[tag][step] for step in sorted(one[tag])]) for run in (one, other))
        torch.testing.assert_close(a, b, rtol=2e-5, atol=1e-6)


def test_batches_that_are_divided_otherwise_are_counted_otherwise(tmp_path, pairs_of_runs):
    """Stopped with one batch a step, taken up with four: validations and the end come at the same optimizer
    steps.
    """
    from commandline import in_process
    from forks import left

    settings = {"accumulate_grad_batches": 1, "val_check_interval": 3, "log_every_n_steps": 1}
    path = configuration(tmp_path / "run", strike=("on_train_batch_start", 5, signal.SIGTERM), **settings)
    assert left("fit", "-c", path) == 143
    resumed = in_process("fit", "-c", path, "--resume", "auto", "--data.device_batch_size", "2")
    assert resumed.code == 0, resumed.err
    one, other = runs.logged(pairs_of_runs / "one"), runs.logged(tmp_path / "run")
    assert {tag: sorted(values) for tag, values in one.items()} == {
        tag: sorted(values) for tag, values in other.items()
    }
    a, b = (torch.tensor(list(run["straightness/sum"].values())) for run in (one, other))
    torch.testing.assert_close(a, b, rtol=2e-5, atol=1e-6)


def test_another_batch_size_is_refused_unless_asked_for(tmp_path):
    from commandline import in_process
    from forks import left

    path = configuration(tmp_path / "run", strike=("on_train_batch_start", 5, signal.SIGTERM), every=2)
    assert left("fit", "-c", path) == 143
    words = ("fit", "-c", path, "--resume", "auto", "--data.batch_size", "16")
    error = in_process(*words).error
    assert "batch_size 8, now it is 16" in error and "--data.new_batch_size true" in error
    resumed = in_process(*words, "--data.new_batch_size", "true")
    assert resumed.code == 0, resumed.err
    facts = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["FlowDataModule"]
    assert facts == {"batch_size": 16, "accumulated": 2, "batches": 18, "rows": 3 * 8 + 6 * 16}


# sharded

SHARDED = ("--trainer.devices", "2", "--trainer.strategy", "sharded")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    import os
    import subprocess
    import sys

    from commandline import REPOSITORY

    root = tmp_path_factory.mktemp("sharded") / "run"
    path = configuration(root, accumulate_grad_batches=1, val_check_interval=3, log_every_n_steps=1)
    rk45(path)
    command = [sys.executable, "-m", "flowlit", "fit", "-c", str(path), *SHARDED]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=200,
        env={**os.environ, "PYTHONPATH": str(runs.HELPERS)},
    )
    assert done.returncode == 0, done.stderr
    return root


def test_sharded_training_is_that_of_one_process(sharded, pairs_of_runs):
    one, other = runs.logged(pairs_of_runs / "one"), runs.logged(sharded)
    for tag in ("train/loss", "gradients/norm", "straightness/sum"):
        a, b = (torch.tensor([run[tag][step] for step in sorted(one[tag])]) for run in (one, other))
        torch.testing.assert_close(a, b, rtol=2e-5, atol=1e-6)
    a, b = (tiny.weights(root / "checkpoints/last.ckpt") for root in (pairs_of_runs / "one", sharded))
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=1e-4, atol=1e-5)


def rk45(path):
    text = path.read_text().replace("flowlit.solvers.Euler", "flowlit.solvers.RK45")
    path.write_text(re.sub(r"\bsteps: 2\n", "rtol: 0.01\n", text))
    return path


@pytest.mark.parametrize(("before", "after"), [(SHARDED, SHARDED), (SHARDED, ()), (TWO, SHARDED)])
def test_a_sharded_run_goes_on_with_any_strategy(tmp_path, flowlit, sharded, before, after):
    settings = {"accumulate_grad_batches": 1, "val_check_interval": 3, "log_every_n_steps": 1}
    path = rk45(
        configuration(tmp_path / "run", strike=("on_train_batch_start", 6, signal.SIGTERM), **settings)
    )
    fit(flowlit, path, *before, "--resume", "auto", code=143)
    fit(flowlit, path, *after, "--resume", "auto")
    if before == after:
        return assert_equal(sharded, tmp_path / "run")
    one, other = runs.logged(sharded), runs.logged(tmp_path / "run")
    assert one.keys() == other.keys()
    for tag in ("train/loss", "gradients/norm", "straightness/sum"):
        a, b = (torch.tensor([run[tag][step] for step in sorted(one[tag])]) for run in (one, other))
        torch.testing.assert_close(a, b, rtol=2e-5, atol=1e-6)


def test_sharded_devices_generate_what_one_does(tmp_path, flowlit, sharded):
    """Adaptive steps, and more of them on one device than on the other: nobody waits for anybody."""
    path, pairs = rk45(configuration(tmp_path / "run")), {}
    for name, words in (("one", ()), ("two", SHARDED)):
        store = tmp_path / name
        options = ("--store", store, "--num", "7", "--shard_size", "3", "--seed", "5")
        words = ("couple", "-c", path, "--ckpt_path", sharded / "checkpoints/last.ckpt", *options, *words)
        done = flowlit(*words, PYTHONPATH=str(runs.HELPERS), timeout=200)
        assert done.code == 0, done.err
        pairs[name] = {file.name: file.read_bytes() for file in store.glob("*.safetensors")}
    assert len(pairs["one"]) == 3 and pairs["one"] == pairs["two"]


def test_sharded_devices_evaluate_what_one_does(tmp_path, flowlit, sharded):
    measured = {}
    for name, words in (("one", ()), ("two", SHARDED)):
        path = rk45(configuration(tmp_path / name))
        done = flowlit(
            "validate",
            "-c",
            path,
            "--ckpt_path",
            sharded / "checkpoints/last.ckpt",
            *words,
            PYTHONPATH=str(runs.HELPERS),
        )
        assert done.code == 0, done.err
        measured[name] = {tag: list(values.values()) for tag, values in runs.logged(tmp_path / name).items()}
    assert measured["one"]["straightness/sum"] and measured["one"].keys() == measured["two"].keys()
    for tag, values in measured["one"].items():
        torch.testing.assert_close(
            torch.tensor(values), torch.tensor(measured["two"][tag]), rtol=1e-5, atol=1e-7
        )
