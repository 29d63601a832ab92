"""One writer for a run's folder: faults that were found in the hands of others."""

import contextlib

import pytest
import tiny
from commandline import in_process

from flowlit._support.locks import locked_folder, locked_target
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
        assert "another validate is writing" in in_process("validate", "-c", path).error
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
