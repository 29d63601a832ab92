"""Every YAML of score distillation says what it is, and its command parses."""

import re

import pytest
from commandline import REPOSITORY

FOLDER = REPOSITORY / "experiments/score_distillation"
FILES = sorted(FOLDER.rglob("*.yaml"))


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(REPOSITORY)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_command_in_the_header_parses(path, cli):
    text = path.read_text()
    assert text.startswith("# ")
    words = re.search(r"^#\s+run\s.*?flowlit (.+)$", text, re.M)[1].split()
    outcome = cli(*words, "--print_config")
    assert outcome.code == 0, outcome.err
    for found in re.findall(r"experiments/[\w/]+\.yaml", text):
        assert (REPOSITORY / found).is_file(), found
