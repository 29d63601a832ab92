"""``flowlit init``: a recipe in a folder of one's own, which runs there; and what the wheel brings."""

import configparser

import pytest
from commandline import REPOSITORY

from flowlit.commands.init import needed, shipped

RECIPES = sorted(path.stem for path in (REPOSITORY / "experiments/recipes").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_has_all_its_files_in_the_new_folder(recipe, cli, tmp_path, monkeypatch):
    project = tmp_path / "my_project"
    assert "flowlit pipeline -c" in cli("init", project, "--recipe", recipe).out
    monkeypatch.chdir(project)
    planned = cli("pipeline", "-c", f"experiments/recipes/{recipe}.yaml", "--dry-run")
    assert planned.code == 0, planned.err
    expected = ("it has not run yet", "it depends on", "it would not begin: stage ", "variables: ")
    assert all(any(words in line for words in expected) for line in planned.out.splitlines())
    assert len((project / "README.md").read_text().splitlines()) == 5


def test_nothing_of_the_users_is_replaced(cli, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    assert cli("init", tmp_path).code == 0
    assert (tmp_path / "README.md").read_text() == "mine"
    assert "exists already" in cli("init", tmp_path).error


def test_an_unknown_recipe_is_refused_with_those_that_exist(cli, tmp_path):
    assert (
        "expected one of arena, arena_shared, arena_teacher, instaflow_sd15, instaflow_slim, "
        "instaflow_tiny, msd_digits, " in cli("init", tmp_path / "x", "--recipe", "nothing").error
    )
    assert not (tmp_path / "x").exists()


def test_fragments_and_layers_are_found(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "a.yaml").write_text("# other.yaml\nnetwork: parts/b.yaml\n")
    (tmp_path / "parts/b.yaml").write_text("x: c.yaml\n")
    for name in ("parts/c.yaml", "other.yaml"):
        (tmp_path / name).write_text("")
    assert needed(tmp_path, "a.yaml") == {"a.yaml", "parts/b.yaml", "parts/c.yaml"}


def test_the_wheel_brings_every_yaml():
    """pip puts them where ``shipped`` looks."""
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    brought = {path for pattern in setup["options.data_files"].values() for path in REPOSITORY.glob(pattern)}
    assert brought == set((REPOSITORY / "experiments").rglob("*.yaml"))
    for place, pattern in setup["options.data_files"].items():
        assert place == f"share/flowlit/{pattern.removesuffix('/*.yaml')}"


def test_a_clone_has_its_own_experiments():
    assert shipped() == REPOSITORY
