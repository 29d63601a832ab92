"""Images of one's own: what a recipe finds in their headers, and variables that reach its stages."""

import json
import os
import random
import re
import subprocess
import sys
import zipfile
from dataclasses import replace

import pictures
import pytest
import tiny
import yaml
from commandline import REPOSITORY, in_process, parsed_here

from examples import shapes
from flowlit.commands.pipeline.budget import Count, Speed, numbers
from flowlit.commands.pipeline.check import check_configurations
from flowlit.commands.pipeline.headers import read_headers
from flowlit.commands.pipeline.pictures import from_images
from flowlit.commands.pipeline.recipe import Recipe
from flowlit.errors import FlowlitError

RECIPE = str(REPOSITORY / "experiments/recipes/own_images.yaml")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return shapes.into_folder(tmp_path_factory.mktemp("my_images"), 60)


def found(place, **variables):
    given = {"images": str(place), "resolution": 32, "classes": "auto", "channels": "auto", **variables}
    return from_images(given, "recipe.yaml", False)


def test_one_line_says_what_is_in_a_mixed_folder(folder):
    variables, line = found(folder, held_out=0.1)
    assert line.startswith(f"{folder}: 60 images, 4") and "px, fitted to 32×32; " in line
    assert line.endswith("15 with transparency over white; 3 classes: circle, square, triangle; 10% held out")
    assert (variables["channels"], variables["classes"], variables["labels"]) == (3, 3, True)
    assert variables["shape"] == [3, 32, 32]


def test_grey_pictures_have_one_channel(tmp_path):
    place = shapes.into_folder(tmp_path / "grey", 12, classes=False, modes=("L",))
    variables, line = found(place)
    assert variables["shape"] == [1, 32, 32] and "; grey; no classes" in line
    colours = {
        f"{mode}.png": pictures.encoded(pictures.image("L").convert(mode)) for mode in ("P", "1", "LA")
    }
    assert read_headers(pictures.into_folder(tmp_path / "palettes", colours)).grey
    assert not read_headers(
        pictures.into_folder(tmp_path / "p", {"a.png": pictures.encoded(pictures.image("P"))})
    ).grey


def test_pictures_that_are_too_small_are_counted(tmp_path):
    place = pictures.into_folder(tmp_path, {"a.png": pictures.encoded(pictures.RGB)})
    assert "1 images, 7–9 px, fitted to 32×32 (1 enlarged)" in found(place)[1]


def test_sub_folders_of_few_pictures_are_no_classes_unless_one_says_so(tmp_path):
    place = shapes.into_folder(tmp_path, 9)
    variables, line = found(place)
    assert (
        variables["classes"] == 0 and "no classes (circle has 3 images; --vars.classes folders takes" in line
    )
    assert found(place, classes="folders")[0]["classes"] == 3
    assert found(place, classes="none")[0]["labels"] is False


def test_a_zip_with_labels_has_classes(folder, tmp_path):
    into = tmp_path / "images.zip"
    assert in_process("images", folder, "--resolution", 16, "--into", into).code == 0
    variables, line = found(into)
    assert "60 images, 16 px" in line and variables["classes"] == 3


def test_broken_pictures_are_named(tmp_path):
    pictures.into_folder(tmp_path, {"a.png": b"no image", "b.png": pictures.encoded(pictures.RGB)})
    with pytest.raises(FlowlitError, match=r"a\.png is not a readable image"):
        found(tmp_path)


def test_a_broken_picture_in_a_zip_is_named(tmp_path):
    place = tmp_path / "a.zip"
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr("a.png", pictures.encoded(pictures.RGB))
    content = place.read_bytes()
    place.write_bytes(content.replace(b"IDAT", b"IDAx", 1))
    with pytest.raises(FlowlitError, match=r"a\.png is not a readable image \(Bad CRC-32"):
        found(place)
    listed = content.rindex(b"PK\x01\x02")
    place.write_bytes(content[: listed + 10] + b"\x63" + content[listed + 11 :])
    with pytest.raises(FlowlitError, match=r"a\.png is not a readable image \(That compression"):
        found(place)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FlowlitError, match="is a pipe or device, expected a file"):
        found(tmp_path / "pipe")


def test_what_was_found_in_many_files_is_kept(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("flowlit.data.long_work.SLOW", 0.0)
    monkeypatch.setattr("flowlit.commands.pipeline.headers.KEPT.known", {})
    first = read_headers(str(folder))
    monkeypatch.setattr("flowlit.commands.pipeline.headers.KEPT.known", {})  # as in another process
    monkeypatch.setattr("flowlit.commands.pipeline.headers._looked_at", None)
    assert read_headers(str(folder)) == first
    shapes.draw("circle", random.Random(1), "RGB").save(folder / "circle/new.png")
    try:
        with pytest.raises(TypeError):  # it would look again
            read_headers(str(folder))
    finally:
        (folder / "circle/new.png").unlink()


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"images": "nope"}, "nope does not exist; name your own images"),
        ({"resolution": 30}, "resolution is 30; expected a multiple of 8"),
        ({"resolution": 0}, "resolution is 0"),
        ({"resolution": "32"}, "resolution is '32'"),
        ({"resolution": 4096}, "up to 1024"),
        ({"classes": 3}, "classes is 3; expected auto, folders or none"),
        ({"channels": 2}, "channels is 2; expected auto, 1 or 3"),
        *(
            ({"held_out": share}, f"held_out is {share!r}; expected a number")
            for share in ("0.1", 1, -1, True)
        ),
    ],
    ids=str,
)
def test_values_that_are_none_are_refused(folder, variables, words):
    with pytest.raises(FlowlitError) as caught:
        found(folder, **variables)
    assert words in str(caught.value)


def test_folders_that_are_no_classes_are_refused(tmp_path):
    place = shapes.into_folder(tmp_path, 6, classes=False)
    with pytest.raises(FlowlitError, match="not all images lie in sub-folders"):
        found(place, classes="folders")
    (tmp_path / "b/empty").mkdir(parents=True)
    shapes.into_folder(tmp_path / "b", 6)
    with pytest.raises(FlowlitError, match="'empty' holds no images"):
        found(tmp_path / "b", classes="folders")


# variables


@pytest.fixture
def small(tmp_path):
    """Two stages, of which one has the variable ``width``."""
    tiny.write(tmp_path / "a.yaml", {"vars": {"root": "x", "width": 8}, "value": "${vars.width}"})
    tiny.write(tmp_path / "b_one.yaml", {"value": 1})
    tiny.write(tmp_path / "b_two.yaml", {"value": 2})
    stages = {
        "a": {"command": "fit", "config": "a.yaml", "writes": "a/x"},
        "b": {
            "command": "fit",
            "config": "b_${vars.kind}.yaml",
            "writes": "b/x",
            "options": {"c": "${vars.kind}"},
        },
    }
    content = {"root": "runs/${vars.kind}", "vars": {"width": 8, "kind": "one"}, "stages": stages}
    return tiny.write(tmp_path / "recipe.yaml", content)


def settled(path, *words):
    recipe = Recipe.read(str(path))
    recipe.override([str(word) for word in words])
    recipe.settle()
    return recipe


def test_a_variable_reaches_the_stages_that_have_it(small):
    recipe = settled(small, "--vars.width", 16)
    first, second = recipe.stages
    assert first.options == {"vars.width": 16} and second.options == {"c": "one"}
    assert str(recipe.root) == "runs/one"
    assert first.arguments(recipe.root)[-2:] == ["--vars.width", "16"]


def test_a_variable_is_part_of_the_key_of_these_alone(small):
    before, after = (
        [plan.key for plan in settled(small, *words).plans()] for words in ((), ("--vars.width", 16))
    )
    assert before[0] != after[0] and before[1] == after[1]


def test_a_variable_chooses_a_file(small):
    assert settled(small, "--vars.kind=two").stages[1].configs[0].endswith("b_two.yaml")
    with pytest.raises(FlowlitError, match=r"vars\.kind is 'three'; expected one of one, two"):
        settled(small, "--vars.kind", "three")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--vars.wdith", "3"], "--vars.wdith: no such variable; the recipe has width, kind"),
        (["--vars.width", "wide"], "--vars.width is 'wide'; expected a number, as 8"),
        (["--vars.width", "[1"], "--vars.width is not valid YAML"),
        (["--vars.width"], "unknown argument '--vars.width'"),
    ],
    ids=str,
)
def test_wrong_variables_are_refused(small, words, expected):
    assert expected in in_process("pipeline", "-c", small, "--dry-run", *words).error


@pytest.mark.parametrize(
    "variables", [[1], {"root": "x"}, {"a b": 1}, {"a": [1]}, {"a": {"b": 1}}, {1: 2}], ids=str
)
def test_variables_are_names_and_plain_values(small, variables):
    content = yaml.safe_load(small.read_text()) | {"vars": variables}
    with pytest.raises(FlowlitError, match=r"vars|variable"):
        Recipe.read(str(tiny.write(small, content)))


def test_files_are_found_beside_the_recipe_and_above_it(small, tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    moved = small.rename(tmp_path / "recipes/recipe.yaml")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert [stage.configs for stage in settled(moved).stages] == [
        [str(tmp_path / "a.yaml")],
        [str(tmp_path / "b_one.yaml")],
    ]
    tiny.write(tmp_path / "elsewhere/a.yaml", {})
    assert settled(moved).stages[0].configs == ["a.yaml"], "the working folder comes first"


def test_images_that_were_interrupted_after_the_last_byte_are_written_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = shapes.into_folder(tmp_path / "mine", 6)
    tiny.write(tmp_path / "a.yaml", {"source": str(place), "resolution": 8, "into": "root/a/a.zip"})
    stages = {"a": {"command": "images", "config": "a.yaml", "writes": "a/a.zip"}}
    path = tiny.write(tmp_path / "recipe.yaml", {"root": "root", "stages": stages})
    assert in_process("pipeline", "-c", path).code == 0
    state = json.loads((tmp_path / "root/a/stage.json").read_text())
    (tmp_path / "root/a/stage.json").write_text(json.dumps({**state, "done": False}))
    again = in_process("pipeline", "-c", path)
    assert again.code == 0, again.err
    assert "it was interrupted" in again.out
    assert json.loads((tmp_path / "root/a/stage.json").read_text())["done"]


# a budget of time


@pytest.mark.slow
def test_minutes_set_the_steps_and_the_same_ones_again(folder, tmp_path, monkeypatch):
    words = ["--vars.images", folder, "--vars.resolution", 8, "--vars.minutes", 30]
    recipe = Recipe.read(RECIPE, str(tmp_path / "root"))
    recipe.override([str(word) for word in words])
    assert "when it runs" in recipe.settle(dry_run=True)[1] and not (tmp_path / "root").exists()
    lines = recipe.settle()
    assert re.search(r"30 minutes at \d+ ms a step of teacher: teacher_steps \d", lines[1])
    steps = {stage.name: stage.options for stage in recipe.stages}
    anneal = steps["reflow"]["vars.anneal_steps"]
    assert steps["reflow"]["vars.reflow_steps"] == pytest.approx(2 * anneal, rel=0.1)
    monkeypatch.setattr("flowlit.commands.pipeline.budget.answer_of", None)  # it is not measured again
    again = Recipe.read(RECIPE, str(tmp_path / "root"))
    again.override([str(word) for word in words])
    assert again.settle(dry_run=True) == lines
    assert [plan.key for plan in again.plans()] == [plan.key for plan in recipe.plans()]
    hour = Recipe.read(RECIPE, str(tmp_path / "root"))
    hour.override([*map(str, words[:-1]), "60"])
    hour.settle()
    twice = hour.stages[2].options["vars.teacher_steps"]
    assert twice == pytest.approx(2 * steps["teacher"]["vars.teacher_steps"], rel=0.1)


def test_little_time_makes_pairs_for_a_batch():
    counts = {"steps": Count(0.5, batches=1), "pairs": Count(0.5, images=8)}
    assert numbers(counts, 1, Speed("", 1.0, 128)) == {"steps": 10, "pairs": 128}


def test_another_network_in_between_does_not_change_the_steps(tmp_path, monkeypatch):
    tiny.write(tmp_path / "a.yaml", {"vars": {"width": 8, "steps": 1}})
    stages = {"a": {"command": "fit", "config": str(tmp_path / "a.yaml"), "writes": "a/x"}}
    budget = {"stage": "a", "counts": {"steps": {"share": 1, "batches": 1}}}
    content = {"root": str(tmp_path / "root"), "vars": {"width": 8, "minutes": 1}}
    path = tiny.write(tmp_path / "recipe.yaml", content | {"budget": budget, "stages": stages})
    speeds = iter([0.1, 0.2, 0.3])

    def measured(*arguments):
        return {"seconds": next(speeds), "batch_size": 8}

    monkeypatch.setattr("flowlit.commands.pipeline.budget.answer_of", measured)
    steps = [settled(path, "--vars.width", width).stages[0].options["vars.steps"] for width in (8, 16, 8, 16)]
    assert steps == [600, 300, 600, 300]


@pytest.mark.slow
def test_a_misspelt_option_of_the_stage_that_is_measured_is_named(folder, tmp_path):
    recipe = Recipe.read(RECIPE, str(tmp_path / "root"))
    words = ["--vars.images", str(folder), "--vars.minutes", "1", "--teacher.model.network.widht", "3"]
    recipe.override(words)
    with pytest.raises(FlowlitError, match=r"speed of teacher cannot be measured: .*did you mean width"):
        recipe.settle()


def test_a_recipe_that_is_not_trusted_is_refused_before_its_speed_is_measured(folder, tmp_path, monkeypatch):
    recipe = Recipe.read(RECIPE, str(tmp_path / "root"))
    network = {"class_path": "os.system"}
    recipe.override(["--vars.images", str(folder), "--vars.minutes", "1"])
    recipe.stages[2].options["model.network"] = network
    recipe.trust = False
    monkeypatch.setattr("flowlit.commands.pipeline.budget.answer_of", None)
    with pytest.raises(FlowlitError, match=r"stage teacher names os\.system"):
        recipe.settle()


NO_BUDGETS = [
    ({"stage": "a"}, "missing required field `counts`"),
    ({"stage": "b", "counts": {}}, "stage is 'b', expected one whose command is fit"),
    ({"stage": "a", "counts": {"n": {"share": 2, "images": 1}}}, "<= 1"),
    ({"stage": "a", "counts": {"n": {"share": 1, "images": 0}}}, "> 0"),
    ({"stage": "a", "counts": {"n": {"share": 1}}}, "n: expected one of batches and images"),
    ({"stage": "a", "counts": {"n": {"share": 1, "images": 1, "batches": 1}}}, "expected one of"),
    ({"stage": "a", "counts": {"n": {"shar": 1}}}, "shar"),
    ([1], "Expected `object`"),
]


@pytest.mark.parametrize(("budget", "words"), NO_BUDGETS, ids=str)
def test_a_budget_of_another_form_is_refused(tmp_path, budget, words):
    stages = {"a": {"command": "fit", "config": "x.yaml", "writes": "a/x"}}
    path = tiny.write(tmp_path / "recipe.yaml", {"root": "r", "budget": budget, "stages": stages})
    with pytest.raises(FlowlitError) as caught:
        Recipe.read(str(path))
    assert "budget: " in str(caught.value) and words in str(caught.value)


@pytest.mark.parametrize("minutes", ["0", "-1", "1e9", ".nan", "soon", "true"])
def test_no_time_is_refused(folder, minutes):
    with pytest.raises(FlowlitError, match=r"vars\.minutes is .*; expected a number above 0"):
        settled(RECIPE, "--vars.images", folder, "--vars.minutes", minutes)


# the shipped recipe


def test_a_misspelt_option_is_refused_before_anything_trains(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    recipe = settled(RECIPE, "--vars.images", folder, "--reflow.model.network.widht", 3)
    plans = recipe.plans()
    with pytest.raises(FlowlitError) as caught:
        check_configurations(plans, tmp_path / "root", False)
    assert str(caught.value).startswith("stage reflow: model.network: ") and "widht" in str(caught.value)
    assert "did you mean width?" in str(caught.value)
    assert str(caught.value).count("stage ") == 1, "no other stage has an error"
    monkeypatch.setattr("flowlit.commands.pipeline.check.answer_of", parsed_here)
    with pytest.raises(FlowlitError) as here:
        check_configurations(plans, tmp_path / "root", False)
    assert str(here.value) == str(caught.value), "other tests parse in their own process"
    right = [plan for plan in plans if plan.stage.name != "reflow"]
    monkeypatch.setattr("flowlit.commands.pipeline.check.answer_of", None)  # they are not parsed again
    check_configurations(right, tmp_path / "root", False)


def test_configurations_are_parsed_again_by_other_code(tmp_path, monkeypatch):
    """An upgrade, an edit of flowlit or of one's own classes may refuse what was right before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tiny.write(tmp_path / "a.yaml", {"seed_everything": 0})
    stages = {"a": {"command": "fit", "config": str(tmp_path / "a.yaml"), "writes": "a/x"}}
    path = tiny.write(tmp_path / "recipe.yaml", {"root": str(tmp_path / "root"), "stages": stages})
    (plan,) = settled(path).plans()
    asked = []
    monkeypatch.setattr("flowlit.commands.pipeline.check.answer_of", lambda *words: asked.append(words) or {})

    def asks(plan=plan):
        before = len(asked)
        check_configurations([plan], tmp_path / "root", False)
        return len(asked) > before

    assert asks() and not asks()
    with monkeypatch.context() as patch:
        patch.setattr("flowlit.commands.pipeline.check.__version__", "9")
        assert asks() and not asks()
    with monkeypatch.context() as patch:
        patch.setattr("flowlit.commands.pipeline.check.version", lambda name: "9")
        assert asks()
    assert asks(replace(plan, inputs={"mine.py": "code, 1"}))
    assert asks(replace(plan, inputs={"mine.py": "code, 2"}))
    assert not asks(replace(plan, inputs={"images": "3 files"}))


def test_init_brings_the_recipe_with_every_size(tmp_path):
    project = tmp_path / "mine"
    said = in_process("init", project, "--recipe", "own_images").out
    assert "flowlit pipeline -c experiments/recipes/own_images.yaml --vars.images my_images" in said
    brought = {str(path.relative_to(project)) for path in project.rglob("*.yaml")}
    assert {f"experiments/parts/sizes/{size}.yaml" for size in ("tiny", "small", "paper")} <= brought


def test_a_plan_of_a_stranger_s_folder_needs_no_torch(folder):
    code = (
        "import sys; from flowlit.commands.pipeline.recipe import Recipe; r = Recipe.read(sys.argv[1]); "
        "r.override(['--vars.images', sys.argv[2]]); print(r.settle()); r.plans(); "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, RECIPE, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0 and "60 images" in done.stdout, done.stderr


@pytest.mark.parametrize("stage", ["evaluate", "evaluate_one_step"])
def test_neighbours_are_sought_among_the_images_that_the_teacher_saw(stage):
    """They were sought among all, so that those held out made copying look rarer."""
    own = REPOSITORY / "experiments/own"
    evaluation, teacher = (yaml.safe_load((own / f"{name}.yaml").read_text()) for name in (stage, "teacher"))
    [neighbours] = [
        each for each in evaluation["trainer"]["callbacks"] if each["class_path"].endswith("Neighbours")
    ]
    trained = teacher["data"]["init_args"]["coupling"]["init_args"]["images"]
    assert neighbours["init_args"]["images"] == trained and trained["init_args"]["part"] == "train"
    assert evaluation["vars"]["held_out"] == teacher["vars"]["held_out"]


def test_a_file_that_is_added_runs_all_stages_again(tmp_path):
    place = shapes.into_folder(tmp_path / "images", 30)
    keys = [[plan.key for plan in settled(RECIPE, "--vars.images", place).plans()]]
    pictures.into_folder(place / "circle", {"new.png": pictures.encoded(pictures.RGB)})
    keys.append([plan.key for plan in settled(RECIPE, "--vars.images", place).plans()])
    assert not set(keys[0]) & set(keys[1])
