"""One writer for a run's folder: faults that were found in the hands of others."""

import contextlib
import os
from pathlib import Path

import pytest
import tiny
from commandline import in_process
from jsonargparse import Namespace
from lightning.pytorch.loggers import Logger

from flowlit._support.locks import locked_folder, locked_target
from flowlit.callbacks import LastCheckpoint
from flowlit.commands._line.earlier import put_aside
from flowlit.commands.trainer import FlowTrainer
from flowlit.errors import FlowlitError

pytestmark = pytest.mark.journey


def test_two_runs_in_one_folder(tmp_path):
    """Both ran: the configuration of one stood beside checkpoints of the other."""
    path = tiny.write(tmp_path / "run.yaml", tiny.fit(tmp_path / "run", steps=2, limit_val_batches=1.0))
    assert in_process("fit", "-c", path).code == 0
    before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    with locked_folder(tmp_path / "run", "fit", ""):
        for words in (("--data.seed", 99), ("--resume", "auto", "--trainer.max_steps", 4)):
            error = in_process("fit", "-c", path, *words).error
            assert f"{tmp_path}/run: another fit is writing there (process " in error
        after = {file: file.read_bytes() for file in before}
        assert after == before
        last = tmp_path / "run/checkpoints/last.ckpt"
        assert in_process("validate", "-c", path, "--ckpt_path", last).code == 0
    with locked_folder(tmp_path / "run", "validate", ""):
        assert (
            "another validate is writing" in in_process("validate", "-c", path, "--untrained", "true").error
        )
        assert in_process("fit", "-c", path, "--resume", "auto", "--trainer.max_steps", 3).code == 0
    assert not list((tmp_path / "run").rglob("*.lock"))


def test_checkpoints_elsewhere_are_locked_too(tmp_path):
    """Two runs with folders of their own may share that of their checkpoints."""
    content = tiny.fit(tmp_path / "run")
    keeper = content["trainer"]["callbacks"][-1]
    keeper["class_path"] = "lightning.pytorch.callbacks.ModelCheckpoint"
    keeper["init_args"] = {"dirpath": str(tmp_path / "elsewhere")}
    path = tiny.write(tmp_path / "run.yaml", content)
    with locked_folder(tmp_path / "elsewhere", "fit", ""):
        assert "elsewhere: another fit" in in_process("fit", "-c", path).error


def test_runs_without_a_folder_of_their_own_do_not_meet(tmp_path):
    content = tiny.fit(tmp_path / "run", logger=False, enable_checkpointing=False, callbacks=[])
    path = tiny.write(tmp_path / "run.yaml", content)
    with locked_folder(tmp_path / "run", "fit", ""):
        assert in_process("fit", "-c", path).code == 0


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("convert", ("{}/run/checkpoints/last.ckpt", "--into", "{}/new.safetensors")),
        ("average", ("{}/run", "--std", "0.1", "--into", "{}/new.safetensors")),
    ],
)
def test_a_file_that_is_being_made_is_not_made_twice(tmp_path, command, options):
    words = [word.format(tmp_path) for word in options]
    with locked_target(tmp_path / "new.safetensors"):
        assert "another process is making it" in in_process(command, *words).error


def test_a_refused_trainer_leaves_what_it_held(tmp_path):
    trainer = FlowTrainer(accelerator="cpu", default_root_dir=str(tmp_path), logger=False)
    checkpoints = tmp_path / "checkpoints"
    with locked_folder(checkpoints, "fit", ""), pytest.raises(FlowlitError, match="another fit"):
        trainer.occupy("fit")
    trainer.leave()
    with contextlib.ExitStack() as stack:
        stack.enter_context(locked_folder(checkpoints, "fit", ""))


def test_fit_twice_and_the_weights_of_both_exist(tmp_path):
    """The second fit replaced last.ckpt and previous.ckpt of the first."""
    root = tmp_path / "run"
    path = tiny.write(tmp_path / "run.yaml", tiny.fit(root, steps=6, callbacks=[tiny.checkpoints(2)]))
    files = ("checkpoints/last.ckpt", "checkpoints/previous.ckpt", "config.yaml")
    before = []
    for seed in (1, 2, 3):
        outcome = in_process("fit", "-c", path, "--seed_everything", seed)
        assert outcome.code == 0, outcome.err
        before.append({file: (root / file).read_bytes() for file in files})
        assert ("starting afresh; the earlier run is in" in outcome.err) == (seed > 1)
    assert f"{root / 'earlier/2'} now" in outcome.err
    for number in (1, 2):
        put_aside = root / "earlier" / str(number)
        assert {file: (put_aside / file).read_bytes() for file in files} == before[number - 1]
        assert len(list(put_aside.glob("events.*"))) == 1
    assert len(list(root.glob("events.*"))) == 1 and not (root / "earlier/3").exists()
    assert not list(root.rglob("earlier/*/earlier"))


def test_what_goes_on_with_a_run_puts_nothing_aside(tmp_path):
    root = tmp_path / "run"
    path = tiny.write(tmp_path / "run.yaml", tiny.fit(root, steps=2))
    last = root / "checkpoints/last.ckpt"
    assert in_process("fit", "-c", path).code == 0
    for words in (("--resume", "auto"), ("--ckpt_path", "last"), ("--ckpt_path", last)):
        outcome = in_process("fit", "-c", path, "--trainer.max_steps", 4, *words)
        assert outcome.code == 0, outcome.err
    assert in_process("fit", "-c", path, "--trainer.fast_dev_run", "true").code == 0
    assert not (root / "earlier").exists()
    branch = tmp_path / "branch.ckpt"
    branch.write_bytes(last.read_bytes())
    outcome = in_process("fit", "-c", path, "--ckpt_path", branch, "--trainer.max_steps", 6)
    assert (
        outcome.code == 0 and (root / "earlier/1/checkpoints/last.ckpt").read_bytes() == branch.read_bytes()
    )


def test_a_fit_in_the_working_folder_leaves_other_files_where_they_are(tmp_path, monkeypatch):
    """Its folder is that of everything else."""
    monkeypatch.chdir(tmp_path)
    content = tiny.fit(".", steps=2, callbacks=[{**tiny.checkpoints(), "init_args": {}}])
    path = tiny.write(tmp_path / "mine.yaml", content)
    others = [tmp_path / name for name in ("config_mine.yaml", "features/run/last.ckpt", "notes.txt")]
    for other in others:
        other.parent.mkdir(parents=True, exist_ok=True)
        other.write_text("mine")
    for _ in range(2):
        outcome = in_process("fit", "-c", path)
        assert outcome.code == 0, outcome.err
    assert all(other.read_text() == "mine" for other in others) and path.exists()
    assert (tmp_path / "earlier/1/checkpoints/last.ckpt").exists()


def test_checkpoints_in_a_folder_of_their_own_are_put_aside_there(tmp_path):
    keeper = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint"}
    keeper["init_args"] = {"dirpath": str(tmp_path / "weights"), "save_last": True, "every_n_train_steps": 1}
    path = tiny.write(tmp_path / "run.yaml", tiny.fit(tmp_path / "run", steps=2, callbacks=[keeper]))
    for _ in range(2):
        outcome = in_process("fit", "-c", path)
        assert outcome.code == 0, outcome.err
    for folder in (tmp_path / "run/earlier/1/checkpoints", tmp_path / "weights/earlier/1"):
        assert (folder / "last.ckpt").exists()
    assert (tmp_path / "weights/last.ckpt").exists()


class Elsewhere(Logger):
    """A logger of another kind, which has a folder for checkpoints."""

    name = "mine"
    version = "same"
    save_dir = None

    def __init__(self, folder):
        super().__init__()
        self.save_dir = str(folder)

    def log_metrics(self, metrics, step=None):
        pass

    log_hyperparams = log_metrics


def test_checkpoints_of_other_loggers_are_put_aside(tmp_path):
    trainer = FlowTrainer(accelerator="cpu", logger=Elsewhere(tmp_path), callbacks=[LastCheckpoint()])
    folder = tmp_path / "mine/same/checkpoints"
    folder.mkdir(parents=True)
    for number in ("1", "2"):
        for name in ("last.ckpt", "previous.ckpt"):
            (folder / name).write_text(number)
        put_aside(trainer, None)
        assert not list(folder.glob("*.ckpt"))
        assert {file.name for file in (folder / "earlier" / number).iterdir()} == {
            "last.ckpt",
            "previous.ckpt",
        }
        assert (folder / "earlier" / number / "last.ckpt").read_text() == number
    put_aside(trainer, None)
    assert not (folder / "earlier/3").exists()


def of_file(path):
    return {
        "class_path": "flowlit.networks.pretrained",
        "init_args": {"checkpoint": str(path), "weights": "raw"},
    }


def test_a_fit_from_a_file_of_the_run_that_it_would_put_aside_is_refused(tmp_path):
    """Other ranks build the network after rank 0 has moved the file, and so does a run that goes on."""
    root = tmp_path / "run"
    path = tiny.write(tmp_path / "run.yaml", tiny.fit(root, steps=2))
    assert in_process("fit", "-c", path).code == 0
    last = root / "checkpoints/last.ckpt"
    before = {file: file.read_bytes() for file in root.rglob("*") if file.is_file()}
    for name in (last, f"file://{last}", root / "../run/checkpoints/last.ckpt"):
        again = tiny.write(tmp_path / "again.yaml", tiny.fit(root, steps=2, network=of_file(name)))
        error = in_process("fit", "-c", again).error
        assert f"{name} is of the earlier run in this folder" in error and "--vars.root" in error
        assert {file: file.read_bytes() for file in root.rglob("*") if file.is_file()} == before
    copy = tmp_path / "copy.ckpt"
    copy.write_bytes(last.read_bytes())
    again = tiny.write(tmp_path / "again.yaml", tiny.fit(root, steps=2, network=of_file(copy)))
    assert in_process("fit", "-c", again).code == 0


@pytest.mark.parametrize("name", ["snapshots/a.safetensors", "samples", "checkpoints/previous.ckpt"])
def test_whatever_is_put_aside_cannot_be_read_from_there(name, tmp_path):
    trainer = FlowTrainer(accelerator="cpu", logger=Elsewhere(tmp_path), callbacks=[LastCheckpoint()])
    run = tmp_path / "mine/same"
    for file in (
        "checkpoints/last.ckpt",
        "checkpoints/previous.ckpt",
        "snapshots/a.safetensors",
        "samples/0.png",
    ):
        (run / "checkpoints" / file).parent.mkdir(parents=True, exist_ok=True)
        (run / "checkpoints" / file).touch()
        (run / file).parent.mkdir(parents=True, exist_ok=True)
        (run / file).touch()
    place = run / name if name.startswith("checkpoints") else run / "checkpoints" / name
    before = sorted(run.rglob("*"))
    for config in ({"model": [{"checkpoint": str(place)}]}, {"data": Namespace(a=str(place))}):
        with pytest.raises(FlowlitError, match="is of the earlier run"):
            put_aside(trainer, None, config)
    assert sorted(run.rglob("*")) == before
    names = {"root": str(tmp_path), "a": "relu", "b": "\0", "c": "", "d": "x" * 5000, "e": 3}
    put_aside(trainer, None, {"model": names, "trainer": str(run / "checkpoints/last.ckpt")})
    assert not list((run / "checkpoints").glob("*.ckpt"))


def test_an_earlier_run_stays_whole_if_it_cannot_be_put_aside(tmp_path, monkeypatch):
    trainer = FlowTrainer(accelerator="cpu", logger=Elsewhere(tmp_path), callbacks=[LastCheckpoint()])
    run = tmp_path / "mine/same/checkpoints"
    files = [run / name for name in ("a.ckpt", "last.ckpt", "previous.ckpt", "config.yaml")]
    run.mkdir(parents=True)
    for file in files:
        file.write_text(file.name)
    rename = Path.rename

    def full(path, target):
        if path.name == "previous.ckpt":
            raise OSError(28, "No space left on device")
        return rename(path, target)

    for error in (OSError, KeyboardInterrupt):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", full if error is OSError else interrupted(rename))
            with pytest.raises(error):
                put_aside(trainer, None)
        assert [file.read_text() for file in files] == [file.name for file in files]
        assert not (run / "earlier").exists()


def test_a_record_is_copied_whole_or_not_at_all(tmp_path, monkeypatch):
    """Half of a copy would take the place of the record when the earlier run is put back."""
    trainer = FlowTrainer(accelerator="cpu", logger=Elsewhere(tmp_path), callbacks=[LastCheckpoint()])
    run = tmp_path / "mine/same/checkpoints"
    run.mkdir(parents=True)
    for name in ("config.yaml", "last.ckpt"):
        (run / name).write_text(name * 1000)

    def full(descriptor):
        os.truncate(descriptor, 10)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(FlowlitError, match="No space left"):
        patch.setattr(os, "fsync", full)
        put_aside(trainer, None)
    assert {file.name: file.read_text() for file in run.iterdir()} == {
        name: name * 1000 for name in ("config.yaml", "last.ckpt")
    }


def interrupted(rename):
    def rename_or_stop(path, target):
        if path.name == "last.ckpt":
            raise KeyboardInterrupt
        return rename(path, target)

    return rename_or_stop


def test_a_fit_can_be_started_afresh_from_its_own_record(tmp_path):
    """Other ranks read it after rank 0 has put the earlier run aside."""
    root = tmp_path / "run"
    path = tiny.write(tmp_path / "run.yaml", tiny.fit(root, steps=2))
    assert in_process("fit", "-c", path).code == 0
    first = (root / "config.yaml").read_bytes()
    assert in_process("fit", "-c", root / "config.yaml", "--trainer.max_steps", 3).code == 0
    assert (root / "earlier/1/config.yaml").read_bytes() == first != (root / "config.yaml").read_bytes()
    trainer = FlowTrainer(accelerator="cpu", logger=Elsewhere(tmp_path), callbacks=[LastCheckpoint()])
    run = tmp_path / "mine/same/checkpoints"
    run.mkdir(parents=True)
    (run / "last.ckpt").touch()
    (run / "config.yaml").touch()
    put_aside(trainer, None)
    assert (run / "config.yaml").exists() and (run / "earlier/1/config.yaml").exists()


@pytest.mark.slow
def test_one_of_several_processes_puts_the_earlier_run_aside(tmp_path, flowlit):
    root = tmp_path / "run"
    path = tiny.write(tmp_path / "run.yaml", tiny.fit(root, steps=2))
    words = ["--trainer.devices", 2, "--trainer.strategy", "ddp"]
    for seed, file in ((1, path), (2, root / "config.yaml")):
        done = flowlit("fit", "-c", file, *words, "--seed_everything", seed, cwd=tmp_path)
        assert done.code == 0, done.err
    assert done.err.count("the earlier run is in") == 1
    assert sorted(path.name for path in (root / "earlier").iterdir()) == ["1"]
    assert (root / "earlier/1/checkpoints/last.ckpt").exists() and (root / "checkpoints/last.ckpt").exists()
