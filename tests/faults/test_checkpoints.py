"""Checkpoints as other people leave them: copied, renamed, moved, damaged, edited."""

import os
import pickle
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from commandline import in_process
from hostile.checkpoints import HEAD, MISSING, MOMENTS, put
from lightning.fabric.plugins.environments import SLURMEnvironment

import flowlit
from flowlit.errors import FlowlitError
from flowlit.networks import pretrained


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of 4 steps with its configuration, which also keeps the best by step."""
    folder = tmp_path_factory.mktemp("finished")
    best = {"monitor": "step", "mode": "max", "filename": "best-{step}"}
    keep = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": best}
    callbacks = [tiny.EMA, tiny.checkpoints(every=3), keep]
    path = tiny.write(folder / "c.yaml", tiny.fit("run", callbacks=callbacks, limit_val_batches=1))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert in_process("fit", "-c", path).code == 0
    return folder


@pytest.fixture
def run(finished, tmp_path, monkeypatch):
    """A copy of that run in the working folder, as a careless copy leaves it."""
    shutil.copytree(finished, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    folder = Path("run/checkpoints")
    for age, name in enumerate(("previous.ckpt", "last.ckpt")):
        os.utime(folder / name, (10**9 - age, 10**9 - age))
    return folder


def changed(run, change, name="last.ckpt"):
    content = torch.load(run / name)
    change(content)
    torch.save(content, run / name)


def test_a_copied_run_goes_on_from_its_highest_step(run):
    outcome = in_process("fit", "-c", "c.yaml", "--resume", "auto", "--trainer.max_steps", 5)
    assert outcome.code == 0 and "last.ckpt, step 4" in outcome.err


def test_a_checkpoint_of_slurm_that_lies_there_is_not_picked_up(run, monkeypatch):
    """A job of SLURM's, in whose working folder another run left what Lightning saves on a signal."""
    shutil.copy(run / "last.ckpt", "hpc_ckpt_1.ckpt")
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "1")
    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURM_LOCALID", "0")
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NODEID", "0")
    assert SLURMEnvironment.detect()
    shutil.rmtree("run")
    outcome = in_process("fit", "-c", "c.yaml", "--trainer.max_steps", 2)
    assert outcome.code == 0, outcome.err
    assert "hpc_ckpt" not in outcome.err and not list(Path().glob("hpc_ckpt_2*"))
    assert torch.load("run/checkpoints/last.ckpt")["global_step"] == 2


def test_names_of_checkpoints_are_looked_up_in_the_run(run):
    for name, file in (("last", "last.ckpt"), ("best", "best-step=4.ckpt")):
        outcome = in_process("validate", "-c", "c.yaml", "--ckpt_path", name)
        assert outcome.code == 0, outcome.err
        assert f"run/checkpoints/{file}" in outcome.err
    (run / "best-step=4.ckpt").rename(run / "mine.ckpt")
    error = in_process("predict", "-c", "c.yaml", "--ckpt_path", "best").error
    assert "no best one" in error and "mine.ckpt" in error
    shutil.rmtree(run)
    error = in_process("predict", "-c", "c.yaml", "--ckpt_path", "last").error
    assert "there are no checkpoints in" in error and "run/checkpoints" in error
    outcome = in_process("fit", "-c", "c.yaml", "--ckpt_path", "last", "--trainer.max_steps", 1)
    assert outcome.code == 0 and "no checkpoint yet, starting" in outcome.err


def test_a_moved_run_still_has_its_best(run, monkeypatch):
    """The path that ModelCheckpoint stored is of another folder."""
    changed(run, lambda content: move(content, "/elsewhere/"))
    outcome = in_process("validate", "-c", "c.yaml", "--ckpt_path", "best")
    assert outcome.code == 0 and "best-step=4.ckpt" in outcome.err


@pytest.mark.parametrize("stored", ["", "elsewhere/"], ids=["by name alone", "by the path of the original"])
def test_the_best_of_a_run_is_its_own(stored, run, tmp_path):
    """Another run's file has the same name, in the working folder or where the run was copied from."""
    elsewhere = tmp_path / "copy" / stored
    elsewhere.mkdir(exist_ok=True)
    shutil.copy(run / "previous.ckpt", elsewhere / "best-step=4.ckpt")
    changed(run, lambda content: move(content, f"{elsewhere}/" if stored else ""))
    outcome = in_process("validate", "-c", "c.yaml", "--ckpt_path", "best")
    assert outcome.code == 0 and "run/checkpoints/best-step=4.ckpt" in outcome.err


def test_states_of_callbacks_are_of_any_kind(run):
    """Lightning writes what a user's callback returns; one that flowlit's own cannot take is named."""
    changed(run, lambda content: content["callbacks"].update({"Mine": {0: 3}, "Yours": 3}))
    outcome = in_process("fit", "-c", "c.yaml", "--resume", "auto", "--trainer.max_steps", 5)
    assert outcome.code == 0, outcome.err
    changed(run, lambda content: content["callbacks"].update(dict.fromkeys(content["callbacks"], 3)))
    error = in_process("fit", "-c", "c.yaml", "--resume", "auto", "--trainer.max_steps", 6).error
    assert "a callback cannot go on from its state" in error


def move(content, folder):
    for state in content["callbacks"].values():
        if "best_model_path" in state:
            state["best_model_path"] = folder + Path(state["best_model_path"]).name


def test_a_checkpoint_is_named_by_a_url_of_the_disk_and_no_other(run):
    last = (run / "last.ckpt").resolve()
    assert pretrained(last.as_uri()).loaded["file"] == str(last)
    spaced = last.with_name("a b.ckpt")
    shutil.copy(last, spaced)
    assert flowlit.load(spaced.as_uri()).network.loaded["file"] == str(spaced)
    outcome = in_process("validate", "-c", "c.yaml", "--ckpt_path", last.as_uri())
    assert outcome.code == 0, outcome.err


def test_a_flipped_byte_is_found_by_every_reader(run):
    whole = (run / "last.ckpt").read_bytes()
    content = bytearray(whole)
    name = next(iter(torch.load(run / "last.ckpt")["state_dict"]))
    tensor = torch.load(run / "last.ckpt")["state_dict"][name].numpy().tobytes()
    content[whole.index(tensor)] ^= 1
    path = run / "last.ckpt"
    path.write_bytes(content)
    for read in (flowlit.load, pretrained):
        with pytest.raises(FlowlitError, match=r"last.ckpt is corrupt \(.*data/0\)"):
            read(str(path))
    readers = [
        ("validate", "-c", "c.yaml", "--ckpt_path", path),
        ("fit", "-c", "c.yaml", "--ckpt_path", path),
        ("fit", "-c", "c.yaml", "--ckpt_path", path, "--weights_only", "false"),
        ("couple", "-c", "c.yaml", "--ckpt_path", path, "--store", "s", "--num", 1, "--shard_size", 1),
        ("sweep", "-c", "c.yaml", "--ckpt_path", path),
        ("doctor", "-c", "c.yaml", "--ckpt_path", path),
        ("convert", path, "--into", "c.safetensors"),
        ("cost", path),
    ]
    for words in readers:
        assert "last.ckpt is corrupt" in in_process(*words).error, words
    trainer = tiny.trainer("python")
    with pytest.raises(FlowlitError, match="corrupt"):
        trainer.strategy.checkpoint_io.load_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put("global_step", "four"), "global_step: Expected int, got str"),
        (put(*MOMENTS, "state", 0, "exp_avg", torch.zeros(3)), "exp_avg of parameter 0 is (3,) there"),
        (put(*MOMENTS, "param_groups", 0, "params", [0, 1]), "groups of [2] parameters"),
        (put("optimizer_states", []), "has 0 optimizers, this run has 1"),
        (put("state_dict", HEAD, torch.tensor([float("nan")])), f"{HEAD} is not finite"),
        (put("state_dict", HEAD, torch.tensor([3])), f"{HEAD} is int64 there, floating-point here"),
    ],
)
def test_no_training_begins_from_a_checkpoint_that_lies(change, words, run):
    changed(run, change)
    changed(run, put("flowlit", "sha256", MISSING))
    outcome = in_process("fit", "-c", "c.yaml", "--ckpt_path", run / "last.ckpt", "--trainer.max_steps", 5)
    assert words in outcome.error and "Traceback" not in outcome.err


def test_files_that_are_no_checkpoints_are_one_line(run):
    Path("code.ckpt").write_bytes(pickle.dumps({"state_dict": os.system}))
    torch.save({"state_dict": {}, "code": torch.nn.Linear(1, 1)}, "module.ckpt")
    os.mkfifo("pipe.ckpt")
    Path("sharded.ckpt").mkdir()
    Path("sharded.ckpt/.metadata").write_bytes(b"")
    expected = {
        "": "expected the path of a file",
        "hpc": "flowlit has no such checkpoints",
        "registry:model": "flowlit has no such checkpoints",
        "run": "is a folder; give a file in it: checkpoints/best-step=4.ckpt",
        "run/checkpoints": "is a folder; give a file in it: best-step=4.ckpt, last.ckpt",
        "sharded.ckpt": "dcp_to_torch",
        "pipe.ckpt": "is a pipe or device",
        "/dev/zero": "is a pipe or device",
        "https://example.org/c.ckpt": "not on a disk of this machine",
        "s3://bucket/c.ckpt": "not on a disk of this machine",
        "file://elsewhere/c.ckpt": "not on a disk of this machine",
        "file:///nothing.ckpt": "does not exist",
        "code.ckpt": "is refused",
        "module.ckpt": "would run code",
        "nothing.ckpt": "does not exist",
        "c.yaml/c.ckpt": "does not exist",
        "c.yaml": "is torn or not a checkpoint",
        "x" * 5000: "cannot be read",
    }
    commands_only = {"hpc", "registry:model"}
    runs = {"run", "run/checkpoints"}  # which flowlit.load takes for their newest checkpoint
    for name, word in expected.items():
        readers = [] if name in commands_only else [pretrained, *[flowlit.load] * (name not in runs)]
        for read in readers:
            with pytest.raises(FlowlitError) as caught:
                read(name)
            assert word in str(caught.value), name
    for name in runs:
        assert flowlit.load(name).network.loaded["file"] == "run/checkpoints/last.ckpt"
    for name in ("", "hpc", "registry:model", "run", "pipe.ckpt", "https://example.org/c.ckpt", "code.ckpt"):
        assert expected[name] in in_process("predict", "-c", "c.yaml", "--ckpt_path", name).error, name
