"""A stranger's YAML runs nothing in commands that look, nor in a pipeline, until it is trusted."""

import sys

import pytest
import tiny
import yaml
from commandline import REPOSITORY, in_process
from matrix import few
from tools import LinearField, write_checkpoint

from flowlit.commands._yaml import trust
from flowlit.errors import FlowlitError

CODE = """
import pathlib
import torch

pathlib.Path(__file__).with_name("ran").touch()


class Net(torch.nn.Module):
    shape = (1, 8, 8)

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 1, 1)

    def forward(self, x, t, cond={}):
        return self.layer(x)
"""


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """Return a YAML that names a class of a module beside it, which leaves a file when it is imported."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "strangers_code", raising=False)
    (tmp_path / "strangers_code.py").write_text(CODE)
    return tiny.write(
        tmp_path / "s.yaml", tiny.fit(tmp_path / "run", network={"class_path": "strangers_code.Net"})
    )


def recipe(stranger, tmp_path):
    stages = {"a": {"command": "fit", "config": str(stranger), "writes": "a/x"}}
    return tiny.write(tmp_path / "recipe.yaml", {"root": str(tmp_path / "root"), "stages": stages})


def looks(stranger, tmp_path):
    return {
        "doctor": ["doctor", "-c", stranger],
        "print_config": ["fit", "-c", stranger, "--print_config"],
        "cost": ["cost", stranger],
        "pipeline": ["pipeline", "-c", recipe(stranger, tmp_path)],
    }


@pytest.mark.parametrize("command", ["doctor", "print_config", "cost", "pipeline"])
def test_nothing_of_a_strangers_yaml_is_imported(stranger, tmp_path, command):
    error = in_process(*looks(stranger, tmp_path)[command]).error
    assert "strangers_code.Net" in error and "--trust" in error and trust.TRUST in error
    assert not (tmp_path / "ran").exists() and "strangers_code" not in sys.modules


@pytest.mark.parametrize("how", ["--trust", "folder"])
@pytest.mark.parametrize("command", ["print_config", "cost"])
def test_a_trusted_yaml_is_built(stranger, tmp_path, command, how, monkeypatch):
    words = looks(stranger, tmp_path)[command]
    if how == "folder":
        monkeypatch.setenv(trust.TRUST, f"/nowhere:{tmp_path}")
    outcome = in_process(*words, *(["--trust"] if how == "--trust" else []))
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("inside", [False, True], ids=["network", "network in a network"])
@pytest.mark.parametrize("command", ["cost", "cost of a YAML", "doctor"])
def test_nothing_that_a_strangers_checkpoint_names_is_imported(stranger, tmp_path, command, inside):
    network = {"class_path": "strangers_code.Net"}
    if inside:
        network = {"class_path": "flowlit.networks.EDM", "init_args": {"network": network}}
    checkpoint = write_checkpoint(tmp_path / "s.ckpt", LinearField(), network=network)
    built = {"class_path": "flowlit.networks.pretrained", "init_args": {"checkpoint": checkpoint}}
    built["init_args"]["weights"] = "raw"
    file = tiny.write(tmp_path / "p.yaml", tiny.fit(tmp_path / "run", network=built))
    words = {
        "cost": ["cost", checkpoint, "--weights", "raw"],
        "cost of a YAML": ["cost", file],
        "doctor": ["doctor", "-c", file],
    }
    error = in_process(*words[command]).error
    assert "strangers_code.Net, which a checkpoint names, is refused" in error and "--trust" in error
    assert not (tmp_path / "ran").exists() and "strangers_code" not in sys.modules


@pytest.mark.parametrize("form", ["{}", "={}", "[{}]"])
def test_every_file_on_the_command_line_needs_trust(stranger, tmp_path, form, monkeypatch):
    mine = tmp_path / "mine"
    mine.mkdir()
    monkeypatch.setenv(trust.TRUST, str(mine))
    config = tiny.write(mine / "a.yaml", tiny.fit(tmp_path / "run"))
    callback = tiny.write(tmp_path / "c.yaml", {"class_path": "strangers_code.Net"})
    option = "--trainer.callbacks" if form == "[{}]" else "--model.network"
    word = form.format(callback)
    given = [f"{option}{word}"] if form == "={}" else [option, word]
    assert in_process("doctor", "-c", config, *given).code != 0
    assert not (tmp_path / "ran").exists() and "strangers_code" not in sys.modules


def test_a_model_given_as_a_file_needs_trust(stranger, tmp_path):
    content = yaml.safe_load(stranger.read_text())
    parts = {part: tiny.write(tmp_path / f"{part}.yaml", content[part]) for part in ("model", "data")}
    words = [word for part, file in parts.items() for word in (f"--{part}", file)]
    for command in (["doctor"], ["fit", "--print_config"]):
        assert "strangers_code.Net" in in_process(*command, *words).error
    assert not (tmp_path / "ran").exists()


def test_a_plan_is_shown_without_trust_and_its_configurations_are_not_parsed(stranger, tmp_path):
    planned = in_process("pipeline", "-c", recipe(stranger, tmp_path), "--dry-run")
    assert "it has not run yet" in planned.out and "--trust" in planned.error
    assert not (tmp_path / "ran").exists()


def test_a_stage_of_an_untrusted_pipeline_is_restricted(stranger, tmp_path, monkeypatch):
    """Whatever its interpolations make of a class path."""
    monkeypatch.setenv(trust.UNTRUSTED, "1")
    assert "strangers_code.Net" in in_process("fit", "-c", stranger).error
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "spelling", ["strangers_code.Net", "${vars.a}${vars.b}", "{class_path: '${vars.a}${vars.b}'}"]
)
def test_a_class_path_that_is_put_together_is_seen(stranger, tmp_path, spelling):
    content = tiny.fit(tmp_path / "run", network=yaml.safe_load(spelling))
    path = tiny.write(tmp_path / "t.yaml", {"vars": {"a": "strangers", "b": "_code.Net"}, **content})
    outcome = in_process("doctor", "-c", path)
    assert outcome.code != 0 and not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "path", ["torch.hub.load", "torch.load", "torch.jit.load", "timm.create_model", "os.system"]
)
def test_what_loads_code_is_refused_in_packages_too(path):
    with pytest.raises(FlowlitError, match=path):
        trust.check_class_paths({"a": [{"class_path": path}]}, "f.yaml")


CALLS = [
    {"class_path": "torch.utils.collect_env.run", "init_args": {"command": "touch ran"}},
    {
        "class_path": "lightning.fabric.utilities.cloud_io._load",
        "init_args": {"path_or_url": "ran.ckpt", "weights_only": False},
    },
    {"class_path": "torch.classes.load_library", "init_args": {"path": "ran.so"}},
    {"class_path": "torch.nn.modules.module.torch.load", "init_args": {"f": "ran.ckpt"}},
    {"class_path": "torch.nn.Identity"},
]


GIVEN = [(call, command) for command in ("doctor", "print_config", "cost", "pipeline") for call in CALLS]


@pytest.mark.parametrize(
    ("call", "command"), few(GIVEN, len(GIVEN) - 1), ids=[f"{call['class_path']}-{to}" for call, to in GIVEN]
)
def test_nothing_is_called_for_a_field_without_a_type(tmp_path, command, call, monkeypatch):
    """``device`` of a layer takes anything: what it is given stays plain data, or is refused."""
    monkeypatch.chdir(tmp_path)
    layer = {"in_features": 1, "out_features": 1, "device": call}
    network = {"class_path": "torch.nn.Linear", "init_args": layer}
    file = tiny.write(tmp_path / "s.yaml", tiny.fit(tmp_path / "run", network=network))
    outcome = in_process(*looks(file, tmp_path)[command])
    harmless = call["class_path"] == "torch.nn.Identity" and command == "print_config"
    assert (outcome.code == 0) is harmless, outcome.err
    assert not (tmp_path / "ran").exists() and "pickle" not in outcome.err


def test_every_class_of_the_experiments_needs_no_trust():
    from jsonargparse._util import import_object

    contents = [yaml.safe_load(file.read_text()) for file in (REPOSITORY / "experiments").rglob("*.yaml")]
    names = {name for content in contents for name in class_paths(content)}
    assert len(names) > 50
    trust.check_class_paths([{"class_path": name} for name in names], "f.yaml")
    with trust.only_packages():
        assert all(import_object(name) for name in names)


def class_paths(node):
    """Yield every class path of nested data."""
    if isinstance(node, dict) and isinstance(node.get("class_path"), str):
        yield node["class_path"]
    if isinstance(node, dict):
        node = list(node.values())
    if isinstance(node, list):
        for value in node:
            yield from class_paths(value)


def test_checkpoints_with_code_need_trust():
    with pytest.raises(FlowlitError, match="weights_only"):
        trust.check_class_paths({"weights_only": False}, "f.yaml")


def test_a_file_cannot_trust_itself(stranger, tmp_path):
    stranger.write_text("trust: true\n" + stranger.read_text())
    for words in looks(stranger, tmp_path).values():
        assert in_process(*words).code != 0
    assert not (tmp_path / "ran").exists()


def test_trust_is_not_accepted_where_it_has_no_meaning(stranger):
    assert "--trust is for doctor" in in_process("fit", "-c", stranger, "--trust").error


def test_parsers_are_as_before_afterwards():
    from jsonargparse._common import parsing_settings

    before = dict(parsing_settings)
    with trust.only_packages():
        assert parsing_settings != before
    assert parsing_settings == before


@pytest.mark.parametrize(
    "words",
    [
        ["--model.network", "os.system"],
        ["--model.network", "torch.load"],
        ["--model.objective", "subprocess.run"],
        ["--data.coupling.images", "builtins.open"],
        ["--model.optimizer", "torch.save"],
        ["--trainer.callbacks", "[{class_path: os.system, init_args: {command: 'touch ran'}}]"],
    ],
    ids=lambda words: " ".join(words)[:40],
)
def test_a_callable_that_returns_something_else_is_refused_before_it_is_called(tmp_path, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = tiny.write(tmp_path / "a.yaml", tiny.fit(tmp_path / "run"))
    error = in_process("fit", "-c", config, *words).error
    assert words[0].removeprefix("--") in error and error.count("\n") <= 2
    assert not (tmp_path / "ran").exists()
