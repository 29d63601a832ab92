"""The checkpoint that a run goes on from, among several."""

import os
import random
import shutil

import pytest
import tiny
import torch

from flowlit._engine.checkpoint_files import newest
from flowlit.errors import FlowlitError
from flowlit.networks.checkpoints.newest import step_of


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A checkpoint of step 4."""
    folder = tmp_path_factory.mktemp("run")
    path = tiny.write(folder / "c.yaml", tiny.fit(folder / "run"))
    from commandline import in_process

    assert in_process("fit", "-c", path).code == 0
    return folder / "run/checkpoints/last.ckpt"


def copied(whole, folder, **steps):
    """Copies of a checkpoint, at other steps, whose times are as a careless copy leaves them."""
    content = torch.load(whole)
    folder.mkdir(exist_ok=True)
    for name, step in steps.items():
        loop = content["loops"]["fit_loop"]["epoch_loop.automatic_optimization.optim_progress"]
        loop["optimizer"]["step"]["total"].update(ready=step, completed=step)
        content["global_step"] = step
        torch.save(content, folder / f"{name}.ckpt")
    for file in folder.iterdir():
        os.utime(file, (random.Random(str(file)).randrange(10**9),) * 2)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ({"last": 8, "previous": 6}, ("last", 8)),
        ({"previous": 8, "last": 8}, ("last", 8)),
        ({"best": 8, "previous": 8, "last": 6}, ("previous", 8)),
        ({"last": 6, "previous": 4, "epoch=3-step=12": 12}, ("epoch=3-step=12", 12)),
        ({"b": 9, "a": 9}, ("a", 9)),
        ({"last": 5, "hpc_ckpt_1": 100}, ("last", 5)),
    ],
)
def test_the_highest_step_is_the_newest_whatever_the_clock_says(steps, expected, whole, tmp_path):
    copied(whole, tmp_path / "checkpoints", **steps)
    file, step = newest([tmp_path / "checkpoints", tmp_path / "nothing"])
    assert (file.stem, step) == expected


def test_the_one_before_is_taken_where_the_newest_is_not_whole(whole, tmp_path):
    copied(whole, tmp_path, last=8, previous=6, old=4)
    for name, expected in (("last", 6), ("previous", 4)):
        content = bytearray((tmp_path / f"{name}.ckpt").read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / f"{name}.ckpt").write_bytes(content)
        assert newest([tmp_path])[1] == expected
    (tmp_path / "old.ckpt").write_bytes(b"")
    with pytest.raises(FlowlitError, match=r"no good checkpoint among 3: .*last\.ckpt is corrupt"):
        newest([tmp_path])


def test_a_step_is_read_without_the_tensors(whole, tmp_path):
    """Bytes of tensors may be anything."""
    content = whole.read_bytes()
    middle = len(content) // 2
    shutil.copy(whole, tmp_path / "c.ckpt")
    with open(tmp_path / "c.ckpt", "r+b") as file:
        file.seek(middle)
        file.write(b"x" * 1000)
    assert step_of(tmp_path / "c.ckpt") == step_of(whole) == 4


def test_of_no_checkpoints_none_is_the_newest(tmp_path):
    assert newest([tmp_path]) is None
