"""Every YAML of score distillation says what it is, and its command parses."""

import re

import pytest
from commandline import REPOSITORY

from flowlit.commands.pipeline.recipe import Recipe

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


STARTS = {"msd_digits": ("reflow", "reflow"), "msd_small_digits": ("tsm_low", "tsm_high")}


@pytest.mark.parametrize("name", STARTS)
def test_two_students_of_five_classes_become_one_router(name):
    """The router has what the recipe writes, and its networks know the classes."""
    recipe = Recipe.read(f"experiments/recipes/{name}.yaml")
    stages = {stage.name: stage for stage in recipe.stages}
    content = {name: stage.configuration(recipe.root) for name, stage in stages.items()}
    router = content["evaluate_router"]["model"]["network"]
    read = [student["checkpoint"] for student in router["students"]]
    assert read == [f"${{vars.root}}/{stages[student].writes}" for student in ("low", "high")]
    assert [content[student]["vars"]["only"] for student in ("low", "high")] == router["classes"]
    assert [content[student]["vars"]["method"] for student in ("low", "high")] == ["low", "high"]
    starts = STARTS[name]
    assert all(content[each]["model"]["network"]["num_classes"] == 10 for each in ("teacher", *starts))
    read = [content[student]["vars"]["start"] for student in ("low", "high")]
    assert read == [f"${{vars.root}}/{stages[start].writes}" for start in starts]
    assert all(start in stages[student].needs for student, start in zip(("low", "high"), starts, strict=True))
    if name == "msd_small_digits":
        for student, start in zip(("low", "high"), starts, strict=True):
            assert content[start]["vars"]["only"] == content[student]["vars"]["only"]
            assert content[start]["model"]["objective"]["class_path"] == "flowlit.objectives.VelocityMatching"
