"""Every YAML of latents parses by its header's commands; on digits a codec and a flow map are trained."""

import re

import pytest
import torch
import yaml
from commandline import REPOSITORY
from tools import write_checkpoint

import flowlit
from flowlit.data import EncoderLatents
from flowlit.networks import SmallClassifier

FOLDER = REPOSITORY / "experiments/latents"
FILES = sorted(FOLDER.rglob("*.yaml"))
DIGITS = ["-c", "experiments/flow_maps/digits.yaml", "-c", FOLDER / "layers/digits.yaml"]


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(REPOSITORY)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_commands_in_the_header_parse(path, cli):
    text = path.read_text()
    for command in re.findall(r"^#\s+(?:run)?\s+flowlit (.+)$", text, re.M):
        outcome = cli(*command.split(), "--print_config")
        assert outcome.code == 0, outcome.err
        model = yaml.safe_load(outcome.out)["model"]
        latents = model["class_path"] == "flowlit.modules.CodecModule"
        assert latents or model["init_args"]["codec"]["class_path"] == "flowlit.data.EncoderLatents"
    for found in re.findall(r"experiments/[\w/]+\.yaml", text):
        assert (REPOSITORY / found).is_file(), found


@pytest.mark.slow
def test_a_codec_of_digits_and_a_flow_map_in_it(cli, tmp_path):
    (tmp_path / "features/checkpoints").mkdir(parents=True)
    write_checkpoint(tmp_path / "features/checkpoints/last.ckpt", SmallClassifier())
    few = ["--trainer.val_check_interval", 2, "--data.batch_size", 4]
    words = ["--vars.root", tmp_path, *few, "--trainer.max_steps", 2]
    outcome = cli("fit", "-c", FOLDER / "digits.yaml", *words)
    assert outcome.code == 0, outcome.err
    codec = tmp_path / "latents/checkpoints/last.ckpt"
    words = ["--vars.root", tmp_path, "--vars.codec", codec, *few, "--vars.steps", 2, "--data.noise.num", 4]
    outcome = cli("fit", *DIGITS, *words)
    assert outcome.code == 0, outcome.err
    generator = flowlit.load(str(tmp_path / "mean_flow/checkpoints/last.ckpt"))
    assert isinstance(generator.codec, EncoderLatents) and generator.shape == (72, 2, 2)
    assert generator.sample(2, seed=0).shape == (2, 1, 8, 8)
    state = torch.load(codec, weights_only=True)["state_dict"]
    assert int(state["network.measured"]) > 1000
