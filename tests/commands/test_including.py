"""Recipes include recipes: what these have comes first, and a recipe's own keys are laid over it."""

import os

import pytest
import tiny
from commandline import in_process

from flowlit.commands.init import needed
from flowlit.commands.pipeline import including
from flowlit.commands.pipeline.reading import read_recipe
from flowlit.commands.pipeline.recipe import Recipe, check_trust
from flowlit.errors import FlowlitError


def stage(name, **fields):
    return {"command": "fit", "config": "c.yaml", "writes": f"{name}/x", **fields}


@pytest.fixture
def arena(tmp_path, monkeypatch):
    """A recipe in ``recipes/`` whose variable names one of two methods, which share what is in common."""
    monkeypatch.chdir(tmp_path)
    tiny.write(tmp_path / "c.yaml", {"vars": {"root": "", "seed": 0}, "value": "${vars.seed}"})
    common = {
        "vars": {"seed": 5, "size": "small"},
        "stages": {
            "a": stage("a"),
            "b": stage("b", needs=["a"]),
            "c": stage("c", needs=["a"], options={"k": 1, "l": [1, 2]}),
        },
        "budget": {"stage": "a", "counts": {"n": {"share": 0.5, "batches": 1}}},
        "table": [],
    }
    tiny.write(tmp_path / "methods/parts/common.yaml", common)
    for name, value in (("plain", 3), ("guided", 4)):
        content = {"include": "parts/common.yaml", "stages": {"c": {"options": {"j": value}}}}
        tiny.write(tmp_path / f"methods/{name}.yaml", content)
    content = {
        "include": "methods/${vars.method}.yaml",
        "root": "runs/arena/${vars.method}/${vars.seed}",
        "vars": {"method": "plain", "seed": 1},
        "stages": {"b": None, "c": {"options": {"k": 2, "l": [3]}}, "d": stage("d", needs=["c"])},
        "budget": {"counts": {"n": {"share": 0.25}}},
    }
    return tiny.write(tmp_path / "recipes/arena.yaml", content)


def settled(path, *words):
    recipe = Recipe.read(str(path), overrides=words)
    recipe.settle()
    return recipe


def test_mappings_merge_key_by_key_and_lists_are_replaced(arena):
    recipe = settled(arena)
    assert [stage.name for stage in recipe.stages] == ["a", "c", "d"]
    c = recipe.stages[1]
    assert c.options == {"k": 2, "l": [3], "j": 3, "vars.seed": 1}
    assert (c.command, c.configs, c.needs) == ("fit", ["c.yaml"], ["a"])
    assert recipe.variables == {"seed": 1, "size": "small", "method": "plain"}
    count = recipe.budget.counts["n"]
    assert (recipe.budget.stage, count.share, count.batches) == ("a", 0.25, 1)


def test_a_new_stage_comes_after_the_one_before_it_in_the_file(arena, tmp_path):
    between = {"a": {}, "n": stage("n", needs=["a"]), "c": {"needs": ["n"]}}
    tiny.write(tmp_path / "methods/plain.yaml", {"include": "parts/common.yaml", "stages": between})
    assert [stage.name for stage in settled(arena).stages] == ["a", "n", "c", "d"]


def test_the_variable_that_was_typed_chooses_what_is_included(arena):
    recipe = settled(arena, "--vars.method", "guided", "--vars.seed=7")
    assert str(recipe.root) == "runs/arena/guided/7"
    assert recipe.stages[1].options == {"k": 2, "l": [3], "j": 4, "vars.seed": 7}
    assert [os.path.basename(file) for file in recipe.files] == ["arena.yaml", "guided.yaml", "common.yaml"]


def test_two_seeds_have_two_roots_and_keys(arena):
    first, second = (settled(arena, "--vars.seed", seed).plans()[0].key for seed in "12")
    assert first != second


def test_an_option_of_an_included_stage_can_be_typed(arena):
    assert settled(arena, "--c.k", "9").stages[1].options["k"] == "9"
    with pytest.raises(FlowlitError, match=r"unknown argument '--b\.k'.*stages are a, c, d"):
        settled(arena, "--b.k", "9")


def test_a_nested_name_has_the_outermost_variable(arena, tmp_path):
    tiny.write(tmp_path / "methods/small.yaml", {"vars": {"from": "small"}})
    tiny.write(tmp_path / "methods/large.yaml", {"vars": {"from": "large"}})
    inner = {"include": ["parts/common.yaml", "${vars.size}.yaml"], "vars": {"size": "large"}}
    tiny.write(tmp_path / "methods/plain.yaml", inner)
    assert settled(arena).variables["from"] == "large"
    assert settled(arena, "--vars.size", "small").variables["from"] == "small"


def test_later_ones_of_a_list_win(arena, tmp_path):
    for name in "xy":
        tiny.write(tmp_path / f"recipes/{name}.yaml", {"vars": {"seed": 1, "of": name, name: 1}})
    content = {"include": ["x.yaml", "y.yaml"], "root": "r", "stages": {"a": stage("a")}}
    assert settled(tiny.write(arena, content)).variables == {"seed": 1, "of": "y", "x": 1, "y": 1}


def test_a_table_may_have_variables(arena, tmp_path):
    row = {"model": "${vars.method}, one step", "stage": "e", "solver": "euler1"}
    tiny.write(tmp_path / "methods/plain.yaml", {"stages": {"e": stage("e", command="test")}, "table": [row]})
    content = {"include": "methods/${vars.method}.yaml", "root": "r", "vars": {"method": "plain"}}
    assert settled(tiny.write(arena, content)).table[0]["model"] == "plain, one step"


# what is wrong


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"include": 3}, "arena.yaml: include has 3, expected the name of a recipe, or a list of names"),
        ({"include": ["x.yaml", None]}, "include has None"),
        ({"include": "nowhere.yaml"}, "recipe nowhere.yaml does not exist"),
        (
            {"include": "methods/${vars.methd}.yaml"},
            "names vars.methd, which the recipe has not",
        ),
        (
            {"include": "arena.yaml"},
            "lead back to themselves: recipes/arena.yaml → recipes/arena.yaml",
        ),
        ({"include": "c.yaml"}, "c.yaml is not a recipe"),
        (
            {"stages": {"bb": None}},
            "stage bb is null, which leaves one out; expected one of a, b, c; did",
        ),
        (
            {"include": [], "stages": {"b": None}},
            "stage b is null, which leaves one out; no stage is",
        ),
        ({"include": []}, "stage c: "),
        ({"stages": {"a": None}}, r"stage b needs ['a'], which must come before it"),
        ({"stages": {"c": {"confg": "x"}}}, "stage c: "),
        ({"stages": [1]}, "stages is [1], expected a mapping"),
        ({"root": "runs/${vars.sed}"}, "root names vars.sed, which the recipe has not; did you mean seed?"),
        ({"root": None}, "root is None, expected the name of a folder"),
        ({"vars": {"method": "${vars.method}"}}, "references lead back to themselves"),
        (
            {"tabel": []},
            "unknown keys ['tabel']; a recipe has include, root, vars, budget, stages, table",
        ),
    ],
    ids=str,
)
def test_a_wrong_recipe_is_refused_in_one_line(arena, changes, expected):
    content = {
        "include": "methods/plain.yaml",
        "root": "r",
        "vars": {"seed": 1},
        "stages": {"c": {}},
    } | changes
    outcome = in_process("pipeline", "-c", tiny.write(arena, content), "--dry-run")
    assert expected in outcome.error


def test_an_unknown_method_is_met_by_those_that_exist(arena):
    error = in_process("pipeline", "-c", arena, "--dry-run", "--vars.method", "giuded").error
    assert "vars.method is 'giuded'; expected one of guided, plain; did you mean guided?" in error


def test_a_wrong_key_is_named_with_its_own_file(arena, tmp_path):
    tiny.write(tmp_path / "methods/plain.yaml", {"stages": {}, "nees": []})
    with pytest.raises(FlowlitError, match=r"methods/plain\.yaml: unknown keys \['nees'\]"):
        settled(arena)


def test_a_circle_of_several_is_named_whole(arena, tmp_path):
    tiny.write(tmp_path / "methods/parts/common.yaml", {"include": str(arena), "stages": {}})
    circle = "recipes/arena.yaml → methods/plain.yaml → methods/parts/common.yaml → recipes/arena.yaml"
    with pytest.raises(FlowlitError, match=circle):
        settled(arena)


def test_files_that_double_each_level_are_refused(arena, tmp_path):
    for level in range(30):
        content = {"include": [f"{level + 1}.yaml"] * 2, "root": "r"}
        tiny.write(tmp_path / f"recipes/{level}.yaml", content)
    tiny.write(tmp_path / "recipes/30.yaml", {"stages": {"a": stage("a")}})
    with pytest.raises(FlowlitError, match=f"0.yaml is made of more than {including.FILES} files"):
        read_recipe(str(tmp_path / "recipes/0.yaml"))


# around it


def test_a_recipe_of_included_stages_is_one(arena):
    content = {"include": "methods/plain.yaml", "root": "r", "vars": {"seed": 1}}
    assert "is a recipe: flowlit pipeline -c" in in_process("fit", "-c", tiny.write(arena, content)).error


def test_files_of_another_folder_are_found_beside_what_includes_them(arena, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert settled(arena).stages[0].configs == [str(tmp_path / "c.yaml")]
    (tmp_path / "c.yaml").rename(tmp_path / "methods/c.yaml")
    assert settled(arena).stages[0].configs == [str(tmp_path / "methods/c.yaml")]


def test_an_included_file_has_to_be_trusted_too(arena, tmp_path, monkeypatch):
    tiny.write(tmp_path / "c.yaml", {"model": {"class_path": "os.system"}})
    tiny.write(tmp_path / "recipes/c.yaml", {"model": {"class_path": "os.system"}})
    monkeypatch.chdir(tmp_path / "recipes")
    monkeypatch.setenv("FLOWLIT_TRUST", str(tmp_path / "recipes"))
    with pytest.raises(FlowlitError, match=r"names os\.system"):
        check_trust(settled("arena.yaml"))
    monkeypatch.setenv("FLOWLIT_TRUST", str(tmp_path))
    assert check_trust(settled("arena.yaml"))


def test_init_brings_every_file_that_a_variable_can_name(arena, tmp_path):
    tiny.write(tmp_path / "methods/unrelated/x.yaml", {})
    assert needed(tmp_path, "recipes/arena.yaml") == {
        "recipes/arena.yaml",
        "methods/plain.yaml",
        "methods/guided.yaml",
        "methods/parts/common.yaml",
        "c.yaml",
    }


@pytest.mark.parametrize(("command", "seed"), [("fit", 9), ("fit", None), ("validate", 9), ("couple", 9)])
def test_the_seed_of_a_run_may_be_a_variable(command, seed, cli, tmp_path, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    content = tiny.fit(tmp_path, steps=1) | {"vars": {"seed": 5}, "seed_everything": "${vars.seed}"}
    words = ["-c", tiny.write(tmp_path / "run.yaml", content)]
    words += [] if seed is None else ["--vars.seed", seed]
    words += [] if command == "fit" else ["--untrained", "true", "--trainer.limit_val_batches", "1"]
    words += ["--store", tmp_path / "store", "--num", "8", "--seed", "0"] if command == "couple" else []
    outcome = cli(command, *words)
    assert outcome.code == 0, outcome.err
    assert os.environ["PL_GLOBAL_SEED"] == str(seed or 5)
