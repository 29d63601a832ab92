"""Every YAML of text parses by its header, and all generate from the same prompts."""

import re

import pytest
import yaml
from commandline import REPOSITORY, in_process
from matrix import few

pytest.importorskip("diffusers", reason="flowlit[text] is not installed")
pytestmark = pytest.mark.journey

FOLDER = REPOSITORY / "experiments/text"
FILES = sorted(FOLDER.rglob("*.yaml"))
PREFERENCE = sorted((REPOSITORY / "experiments/preference").rglob("*.yaml"))


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(REPOSITORY)


@pytest.mark.parametrize(
    "path", few([*PREFERENCE, *FILES], 3), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_the_commands_in_the_header_parse(path):
    text = path.read_text()
    commands = re.findall(r"^#\s+(?:run|next|measure)?\s+flowlit (.+)$", text, re.M)
    assert commands
    for command in commands:
        words = command.split()
        shown = ["--help"] if words[0] == "export" else ["--print_config"]
        outcome = in_process(*words, *shown)
        assert outcome.code == 0, outcome.err
    for found in re.findall(r"experiments/[\w/]+\.yaml", text):
        assert (REPOSITORY / found).is_file(), found


def test_all_stages_generate_from_the_same_prompts():
    """The encoder is found again by its arguments, the prompts by their texts."""
    sources = []
    for path in FILES:
        if "sd15" in path.parts:
            continue
        data = (yaml.safe_load(path.read_text()).get("data") or {}).get("init_args", {})
        if "noise" in data:
            noise = data["noise"]["init_args"]
            sources.append({name: noise[name] for name in ("prompts", "encoder", "shape")})
    assert len(sources) >= 6 and all(source == sources[0] for source in sources)
    length = sources[0]["encoder"]["init_args"]["length"]
    for path in (FOLDER / "teacher.yaml", FOLDER / "layers/slim.yaml"):
        network = yaml.safe_load(path.read_text())["model"]["init_args"]["network"]
        assert network["init_args"]["text_length"] == length, path
