"""Every YAML of flow maps says what it is, its command parses, and what it builds takes a step."""

import re

import pytest
import torch
import yaml
from commandline import REPOSITORY
from matrix import few
from tools import tiny_unet, write_checkpoint

from flowlit.commands._yaml import build_network
from flowlit.couplings.store.manifest import read_manifest

FOLDER = REPOSITORY / "experiments/flow_maps"
FILES = sorted(FOLDER.rglob("*.yaml"), reverse=True)


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(REPOSITORY)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_command_in_the_header_parses(path, cli):
    text = path.read_text()
    words = re.search(r"^#\s+run\s.*?flowlit (.+)$", text, re.M)[1].split()
    outcome = cli(*words, "--print_config")
    assert outcome.code == 0, outcome.err
    model = yaml.safe_load(outcome.out)["model"]["init_args"]
    assert words[0] in ("couple", "validate") or model["objective"]["class_path"].startswith(
        "flowlit.objectives.flow_maps."
    )
    for found in re.findall(r"experiments/[\w/]+\.yaml", text):
        assert (REPOSITORY / found).is_file(), found


def test_from_scratch_it_has_a_smooth_clock_and_the_size_of_the_slim_student():
    network = build_network(FOLDER / "digits.yaml")
    slim = build_network(REPOSITORY / "experiments/slimflow_digits.yaml")
    assert network.time.scale == 1 and network.reads == {"r"}
    more = sum(p.numel() for p in network.parameters()) - sum(p.numel() for p in slim.parameters())
    assert more == sum(p.numel() for p in network.second_time.parameters())


@pytest.mark.parametrize("layer", few(["lagrangian", "ect", "shortcut"], 0))
def test_a_few_steps_are_trained_and_images_generated(layer, cli, tmp_path):
    network = tiny_unet(width=16, attention_resolutions=())
    folder = tmp_path / "reflow/checkpoints"
    folder.mkdir(parents=True)
    write_checkpoint(folder / "last.ckpt", network)
    words = ["--vars.root", tmp_path, "--vars.steps", 2, "--data.batch_size", 4, "--data.noise.num", 4]
    start = ["--model.network.weights", "raw"] if layer != "shortcut" else []
    guide = ["--model.objective.guide.weights", "raw"] if layer == "lagrangian" else []
    files = ["-c", FOLDER / "digits.yaml", "-c", FOLDER / f"layers/{layer}.yaml"]
    outcome = cli("fit", *files, *words, *start, *guide, "--trainer.val_check_interval", 2)
    assert outcome.code == 0, outcome.err
    last = torch.load(tmp_path / layer / "checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == 2


@pytest.mark.slow
def test_trajectories_are_stored_and_trained_on(cli, tmp_path):
    network = tiny_unet(width=16, attention_resolutions=())
    for stage in ("teacher", "reflow"):
        (tmp_path / stage / "checkpoints").mkdir(parents=True)
        write_checkpoint(tmp_path / stage / "checkpoints/last.ckpt", network)
    root = ["--vars.root", tmp_path]
    couple = ["-c", REPOSITORY / "experiments/couple_digits.yaml", "-c", FOLDER / "couple_digits.yaml", *root]
    outcome = cli("couple", *couple, "--num", 12, "--shard_size", 8, "--model.network.weights", "raw")
    assert outcome.code == 0, outcome.err
    manifest = read_manifest(tmp_path / "trajectories")
    assert manifest["times"] == [k / 8 for k in range(1, 9)] and manifest["nfe"]["max"] == 32
    words = [
        "--vars.steps",
        2,
        "--data.batch_size",
        4,
        "--data.noise.num",
        4,
        "--trainer.val_check_interval",
        2,
    ]
    fit = ["-c", FOLDER / "digits.yaml", "-c", FOLDER / "layers/stored.yaml", *root, *words]
    outcome = cli("fit", *fit, "--model.network.weights", "raw")
    assert outcome.code == 0, outcome.err
    assert "rounds" not in outcome.err, "states of digits are float32"
    assert torch.load(tmp_path / "stored/checkpoints/last.ckpt", weights_only=True)["global_step"] == 2
    outcome = cli("fit", *fit, "--model.network.weights", "raw", "--data.coupling.states", 9)
    assert outcome.code and "states is 9, but it holds 8 states" in outcome.err
