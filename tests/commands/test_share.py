"""A generator goes to the hub and comes back; its card has what was recorded; what fails is one error."""

import json
import shutil
import sys

import hub as stand_in
import pytest
import tiny
import torch
import yaml
from commandline import in_process
from hostile_bytes import as_json
from PIL import Image

import flowlit
from flowlit.commands.pipeline.state import write_state
from flowlit.commands.share.card import plain
from flowlit.data import Pixels
from flowlit.generators import Generator
from flowlit.generators.hub import as_hub_model
from flowlit.networks import UNet
from flowlit.networks.checkpoints.fingerprint import fingerprint
from flowlit.solvers import Euler

HOSTILE = "<img src=x onerror=alert(1)>|\n# x\u202e"


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(1)
    return UNet(**tiny.unet(num_classes=2)["init_args"])


@pytest.fixture
def run(tmp_path, network):
    """A root with a student, what it was made from, and evaluations of it and of other weights."""
    network.trained_on = {"name": "Digits", "images": 1797, "fingerprint": "ab" * 8}
    root = tmp_path / "runs/recipe"
    generator = Generator(network, Euler(1), Pixels(), class_names=("cat", HOSTILE))
    (root / "student").mkdir(parents=True)
    generator.save(root / "student/student.safetensors")
    stages = {
        "teacher": {},
        "student": {"a.checkpoint": "${vars.root}/teacher/checkpoints/last.ckpt"},
        "other": {},
    }
    for name, content in stages.items():
        state = {"key": "0" * 16, "done": True, "seconds": 3.0, "words": ["fit", "-c", f"{root}/{name}.yaml"]}
        write_state(root / name, state | {"content": {"command": "fit", **content}})
    for name, sha in (("evaluate", fingerprint(network)), ("evaluate_other", "0" * 64)):
        (root / name).mkdir()
        tags = {"frechet_digits/euler1": 0.125, "nfe/euler1": 1.0, "images_per_s/euler1": 10.0}
        report = {"format": "flowlit-metrics", "version": 2, "metrics": tags, "sha256": sha, "params": 1}
        facts = {"digits": {"images": 2000, "reference": {"count": 1797}}}
        extra = {
            "features": facts,
            "images": 2000,
            "command": "validate",
            "noise": {"seed": 11},
            "hardware": {HOSTILE: 1},
        }
        (root / name / "metrics.json").write_bytes(as_json(report | extra))
    return root / "student"


@pytest.fixture
def served(monkeypatch, tmp_path):
    """A hub on loopback, whose library looks nowhere else."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.chdir(tmp_path)
    with stand_in.serving() as (hub, address):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", stand_in.TOKEN)
        yield hub


def test_a_folder_that_loads_with_a_card_of_what_was_recorded(run, tmp_path, network):
    folder = tmp_path / "my_digits"
    outcome = in_process("share", run, "--into", folder, "--licence", "Apache-2.0", "--num", "4")
    assert outcome.code == 0, outcome.err
    assert sorted(file.name for file in folder.iterdir()) == sorted(
        ["README.md", "config.json", "model.safetensors", "samples.png"]
    )
    generator = flowlit.load(folder)
    assert torch.equal(generator.sample(4), flowlit.load(run).sample(4))
    assert Image.open(folder / "samples.png").tobytes() == generator.grid(4).tobytes()
    config = json.loads((folder / "config.json").read_text())
    assert (config["num_classes"], config["sha256"]) == (2, fingerprint(network))
    text = (folder / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    front = yaml.safe_load(front)
    assert (front["library_name"], front["license"]) == ("flowlit", "apache-2.0")
    (result,) = front["model-index"][0]["results"]
    assert result["dataset"]["name"] == "Digits"
    assert [(each["type"], each["value"]) for each in result["metrics"]] == [("frechet_digits", 0.125)]
    for fact in ("| teacher | fit |", "| student | fit |", "0.125", "seed of the noise | 11", "1,797 images"):
        assert fact in body, fact
    assert "no FIDs" in body and "Samples 0 to 3 of seed 0" in body
    assert "other" not in body.replace("no other size", "").replace("others", "")
    assert str(tmp_path) not in text and "\u202e" not in text and "<img" not in body.replace("\\<img", "")


def test_the_hub_reads_the_card(run, tmp_path):
    cards = pytest.importorskip("huggingface_hub.repocard")
    in_process("share", run, "--into", tmp_path / "a", "--num", "1")
    data = cards.ModelCard.load(tmp_path / "a/README.md", ignore_metadata_errors=False).data
    assert (data.library_name, data.license) == ("flowlit", "unknown")
    assert data.eval_results[0].metric_value == 0.125


def test_up_and_down_again(run, served, tmp_path):
    outcome = in_process("share", run, "--into", "shared", "--push", "me/digits", "--num", "1", "--private")
    assert outcome.code == 0, outcome.err
    assert set(served.models["me/digits"]) == {"README.md", "config.json", "model.safetensors", "samples.png"}
    assert "me/digits" in served.private
    assert b'flowlit.load("me/digits")' in served.models["me/digits"]["README.md"]
    images = flowlit.load("me/digits").sample(3)
    assert torch.equal(images, flowlit.load(run).sample(3))
    before = len(served.requests)
    assert torch.equal(flowlit.load("hf://me/digits@main").sample(3), images)
    assert not [
        request for request in served.requests[before:] if request.startswith("GET")
    ]  # the cache has it
    (tmp_path / "shared/LICENSE").write_text("mine")
    (tmp_path / "shared/secret.txt").write_text("mine")
    assert in_process("share", "shared", "--push", "me/digits").code == 0  # again, and more files
    assert served.models["me/digits"]["LICENSE"] == b"mine" and "secret.txt" not in served.models["me/digits"]


def refusals(hub, monkeypatch):
    hub.models = {"me/empty": {}, "me/hidden": {}, "me/gated": {}}
    hub.private = {"me/hidden"}
    hub.gated = {"me/gated"}
    monkeypatch.delenv("HF_TOKEN")
    return {
        "me/none": "me/none does not exist on this machine; as a model of the hub it does not exist",
        "me/hidden": "or is private; mend the name, or sign in",
        "me/gated": "accept its conditions",
        "me/empty": "has no model.safetensors",
        "hf://me/empty@v7": "hf://me/empty has no revision v7",
        "hf://me": "names no model of the hub; expected hf://user/name",
    }


def test_what_the_hub_does_not_give_is_one_error(served, monkeypatch):
    for place, expected in refusals(served, monkeypatch).items():
        with pytest.raises(flowlit.errors.FlowlitError) as error:
            flowlit.load(place)
        assert expected in str(error.value) and "\n" not in str(error.value), place


def test_paths_are_not_taken_for_models(served, tmp_path):
    (tmp_path / "runs").mkdir()
    for place in ("runs/student", "a/b.ckpt", "./a/b", "a/b/c", "a", "/a/b", tmp_path / "x"):
        with pytest.raises(flowlit.errors.FlowlitError, match="does not exist"):
            flowlit.load(place)
        assert as_hub_model(place) is None
    assert served.requests == []
    with pytest.raises(flowlit.errors.FlowlitError, match="hf://runs/student would be a model of the hub"):
        flowlit.load("runs/student")


def test_without_a_network_or_the_library(served, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        flowlit.errors.FlowlitError, match=r"me/digits does not exist on this machine.*cannot be reached"
    ):
        flowlit.load("me/digits")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "https://nowhere.invalid")
    with pytest.raises(flowlit.errors.FlowlitError, match=r"hf://me/digits cannot be fetched.*no network"):
        flowlit.load("hf://me/digits")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(flowlit.errors.FlowlitError, match=r"pip install 'flowlit\[hub\]'"):
        flowlit.load("me/digits")


def test_what_cannot_be_shared_is_one_error(run, served, tmp_path, monkeypatch):
    in_process("share", run, "--into", "shared", "--num", "1")
    (tmp_path / "bare").mkdir()
    shutil.copytree("shared", "damaged")
    (tmp_path / "damaged/model.safetensors").write_bytes(b"no weights")
    rows = {
        (run,): "--into FOLDER to write one, or --push user/name",
        (run, "--into", "shared"): "shared exists already",
        ("gone", "--into", "a"): "gone does not exist",
        ("shared", "--push", "digits"): "expected user/name",
        ("shared", "--push", "a/../b"): "expected user/name",
        ("bare", "--push", "me/a"): "has no model.safetensors, config.json, README.md",
        ("damaged", "--push", "me/a"): "damaged/model.safetensors",
    }
    for words, expected in rows.items():
        assert expected in in_process("share", *words).error
    assert served.requests == [] and not (tmp_path / "a").exists()
    served.full = True
    assert "me/a is refused by the hub (507" in in_process("share", "shared", "--push", "me/a").error
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "(401): the token may not do this" in in_process("share", "shared", "--push", "me/a").error


def test_a_text_of_a_run_is_no_markdown():
    assert plain("a|<b>`[x](y)\n") == "a\\|\\<b\\>\\`\\[x\\](y)\\\\n"
