"""Files of versions before: stores, checkpoints, snapshots, configurations and reports go on working.

``golden/before_move`` was written by commit 170b6b1 (``make.py`` there), whose classes had other places and
names.
"""

import json
import shutil
from pathlib import Path

import pytest
import tiny
import torch
import yaml
from commandline import REPOSITORY
from safetensors.torch import load_file

import flowlit
from flowlit.couplings import seeded_normal
from flowlit.couplings.store.manifest import read_manifest
from flowlit.networks import pretrained
from flowlit.solvers import Adams

OLD = REPOSITORY / "tests/golden/before_move"


@pytest.fixture
def old(tmp_path, monkeypatch):
    """A copy of the files in which paths are relative to the working folder."""
    shutil.copytree(OLD, tmp_path / "old", ignore=shutil.ignore_patterns("make.py"))
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


@pytest.fixture
def run(old, cli, monkeypatch):
    """flowlit in the folder of the copies (``cli`` goes to the repository)."""
    monkeypatch.chdir(old)

    def checked(*words):
        outcome = cli(*words)
        assert outcome.code == 0, outcome.err
        return outcome

    return checked


def expected():
    """What the version before computed: two samples, and all weights after two more steps.

    Other processors round differently, hence the tolerances; on the one where they were made all bits agree.
    """
    return load_file(OLD / "expected.safetensors")


def test_checkpoints_are_loaded():
    generator = flowlit.load(str(OLD / "teacher/checkpoints/last.ckpt"))
    assert generator.solver == Adams(3)
    noise = torch.stack([seeded_normal(1, i, (1, 8, 8)) for i in range(2)])
    assert torch.allclose(generator(noise), expected()["samples"], atol=1e-5)
    power = pretrained(str(OLD / "teacher/checkpoints/last.ckpt"), "power")
    assert power.loaded["ema"]["updates"] == 4


def test_a_run_goes_on(old, run):
    outcome = run("fit", "-c", "teacher/config.yaml", "--resume", "auto", "--trainer.max_steps", 6)
    assert "going on from teacher/checkpoints/last.ckpt, step 4" in outcome.err
    assert (
        sorted(path.name for path in Path("teacher/snapshots").iterdir())[-1] == "power-00000006.safetensors"
    )
    lines = [line for line in outcome.err.splitlines() if "the checkpoint had" in line]
    assert [line for line in lines if "class_path" in line] == []
    before = expected()
    after = tiny.weights("teacher/checkpoints/last.ckpt")
    assert after.keys() == before.keys() - {"samples"}
    assert all(torch.allclose(after[name], before[name], rtol=1e-4, atol=1e-6) for name in after)


def test_a_store_grows(old, run):
    """It was made by a solver with another name, which is still the same."""
    manifest = read_manifest("couplings")
    assert manifest["solver"]["class_path"] == "flowlit.multistep.Adams"
    before = {path.name: path.read_bytes() for path in Path("couplings").glob("*.safetensors")}
    configuration = yaml.safe_load(Path("evaluated/config_validate.yaml").read_text())
    configuration["trainer"]["callbacks"] = []
    for key in ("ckpt_path", "verbose"):
        configuration.pop(key, None)
    Path("couple.yaml").write_text(yaml.safe_dump(configuration))
    words = ("--ckpt_path", "teacher/checkpoints/last.ckpt", "--store", "couplings", "--shard_size", 4)
    run("couple", "-c", "couple.yaml", *words, "--num", 12)
    manifest = read_manifest("couplings")
    assert manifest["counts"] == [8, 12] and manifest["complete"]
    assert (
        before.items()
        <= {path.name: path.read_bytes() for path in Path("couplings").glob("*.safetensors")}.items()
    )
    run("couplings", "verify", "couplings")


def test_snapshots_are_combined(old, run):
    run("average", "teacher/snapshots", "--std", 0.12, "--into", "combined.safetensors")
    assert (
        pretrained("combined.safetensors").loaded["ema"]["profile"] == "flowlit.schedules.averages.PowerLaw"
    )


def test_a_validation_is_repeated(old, run):
    """Its configuration names classes by their old places; its numbers are those of before but for
    rounding.
    """
    before = json.loads(Path("evaluated/metrics.json").read_text())["metrics"]
    run("validate", "-c", "evaluated/config_validate.yaml")
    after = json.loads(Path("evaluated/metrics.json").read_text())["metrics"]
    assert after == pytest.approx(before, rel=1e-3, abs=1e-8)


def test_reports_belong_to_their_networks(old, run):
    outcome = run("cost", "teacher/config.yaml", "--records", "evaluated", "--repeats", 2, "--batch_size", 2)
    assert "tiny" in outcome.out


def test_a_network_of_a_checkpoint_may_be_named_in_a_new_configuration(old, run):
    configuration = yaml.safe_load(Path("teacher/config.yaml").read_text())
    init = configuration["model"]["init_args"]
    arguments = {"checkpoint": "teacher/checkpoints/last.ckpt"}
    init["network"] = {"class_path": "flowlit.networks.pretrained", "init_args": arguments}
    configuration["trainer"]["logger"]["init_args"]["save_dir"] = "again"
    Path("again.yaml").write_text(yaml.safe_dump(configuration))
    run("fit", "-c", "again.yaml", "--trainer.max_steps", 2)


def test_a_student_goes_on(old, run):
    """Its saved configuration has classes and arguments that have other names now, or none."""
    outcome = run("fit", "-c", "student/config.yaml", "--resume", "auto", "--trainer.max_steps", 4)
    assert "going on from student/checkpoints/last.ckpt, step 2" in outcome.err
    before = load_file(OLD / "expected_student.safetensors")
    after = tiny.weights("student/checkpoints/last.ckpt")
    assert after.keys() == before.keys()
    assert all(torch.allclose(after[name], before[name], rtol=1e-4, atol=1e-6) for name in after)


def test_a_labelled_store_grows(old, run):
    before = {path.name: path.read_bytes() for path in Path("labelled").glob("*.safetensors")}
    checkpoint = "diffusion/checkpoints/last.ckpt"
    words = ("--ckpt_path", checkpoint, "--store", "labelled", "--shard_size", 6, "--num", 18)
    run("couple", "-c", "couple_labels.yaml", *words)
    after = {path.name: path.read_bytes() for path in Path("labelled").glob("*.safetensors")}
    assert read_manifest("labelled")["counts"] == [12, 18]
    assert len(after) == 3 and before.items() <= after.items()


def test_a_diffusion_with_an_argument_of_before_is_trained_further(old, run):
    outcome = run("fit", "-c", "diffusion/config.yaml", "--resume", "auto", "--trainer.max_steps", 3)
    assert "going on from diffusion/checkpoints/last.ckpt, step 2" in outcome.err


def test_statistics_of_images_are_read(old):
    from flowlit.metrics.reference import read_reference

    reference = read_reference("digits.npz")
    assert reference.protocol["count"] == 64 and reference.mean.shape == (8,)
