"""Weights that no training has changed, taken for trained ones: faults in the hands of others."""

import pytest
import tiny
from commandline import in_process
from torch import nn

from flowlit.networks import pretrained

pytestmark = pytest.mark.journey


class Still(nn.Module):
    """The velocity 0, which has nothing to train."""

    def forward(self, x, t, cond={}):
        return 0 * x


class Scaled(nn.Module):
    """A network that wraps the one of a file."""

    def __init__(self, checkpoint: str):
        super().__init__()
        self.inside = pretrained(checkpoint)

    def forward(self, x, t, cond={}):
        return self.inside(x, t, cond)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("fresh")
    path = tiny.write(root / "run.yaml", tiny.fit(root / "run", limit_val_batches=1.0, steps=2))
    assert in_process("fit", "-c", path).code == 0
    return root


def words(command, root, network=None):
    content = tiny.fit(root / "run", limit_val_batches=1.0, network=network)
    path = tiny.write(root / "with.yaml", content)
    pairs = ("--store", root / f"store_{command}", "--num", 2, "--shard_size", 2)
    return (command, "-c", path, *(pairs if command == "couple" else ()))


@pytest.mark.parametrize("command", ["validate", "test", "predict", "couple", "sweep"])
def test_fresh_weights_are_refused_naming_the_checkpoint_that_lies_there(command, trained):
    error = in_process(*words(command, trained)).error
    last = trained / "run/checkpoints/last.ckpt"
    assert f"{command}: UNet has fresh weights" in error
    assert f"--ckpt_path {last} (step 2)" in error and "--untrained true" in error
    assert not (trained / f"store_{command}").exists()


def test_without_a_checkpoint_the_error_says_what_to_give(tmp_path):
    assert "--ckpt_path FILE, or --untrained true" in in_process(*words("validate", tmp_path)).error


@pytest.mark.parametrize("command", ["validate", "couple"])
def test_fresh_weights_generate_if_that_is_meant(command, tmp_path):
    outcome = in_process(*words(command, tmp_path), "--untrained", "true")
    assert outcome.code == 0, outcome.err


def test_weights_of_a_file_are_trained_ones_also_inside_another_network(trained, tmp_path):
    arguments = {"checkpoint": str(trained / "run/checkpoints/last.ckpt")}
    for class_path in ("flowlit.networks.pretrained", f"{__name__}.Scaled"):
        network = {"class_path": class_path, "init_args": arguments}
        outcome = in_process(*words("validate", tmp_path, network))
        assert outcome.code == 0, outcome.err
    still = {"class_path": f"{__name__}.Still"}
    assert in_process(*words("validate", tmp_path, still)).code == 0, "nothing to train"


def test_random_pairs_need_no_network(trained):
    images = ("--origin", "random", "--store", trained / "random", "--num", 8, "--shard_size", 8)
    outcome = in_process("couple", "-c", trained / "run.yaml", *images)
    assert outcome.code == 0, outcome.err


def test_training_takes_no_untrained(tmp_path):
    error = in_process(*words("fit", tmp_path), "--untrained", "true").error
    assert "--untrained" in error and "fit trains" in error


def test_the_doctor_of_pairs_names_the_checkpoint_that_couple_would(trained):
    doctor = ("doctor", *words("couple", trained)[1:])
    refused = in_process(*doctor)
    last = trained / "run/checkpoints/last.ckpt"
    assert refused.code == 1 and f"--ckpt_path {last} (step 2)" in refused.out
    assert "fresh weights" not in in_process(*doctor, "--ckpt_path", last).out
