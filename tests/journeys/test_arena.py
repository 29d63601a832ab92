"""The arena: every method is a recipe, at the cost of every other."""

import json
import re
import sys

import budgets
import pytest
import yaml
from arena import labelled_images, random_features
from commandline import REPOSITORY, in_process

import flowlit
from flowlit._support.files import file_hash
from flowlit.commands.arena.rows import compare
from flowlit.commands.arena.runs import find_runs
from flowlit.commands.pipeline import recipe as pipeline
from flowlit.commands.pipeline.recipe import Recipe

ARENA = REPOSITORY / "experiments/arena"
METHODS = sorted(path.stem for path in (ARENA / "methods").glob("*.yaml"))
RUN = sorted([*ARENA.glob("*.yaml"), *(ARENA / "layers").glob("*.yaml")])
BATCH = 64


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(REPOSITORY)


def read(method):
    recipe = Recipe.read("experiments/recipes/arena.yaml", overrides=["--vars.method", method])
    recipe.settle(dry_run=True)
    return recipe


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_the_same_budget_with_gradient(method):
    """Critics count as students do, and so does a guide that the gradient flows through."""
    text = (ARENA / f"methods/{method}.yaml").read_text()
    stated = re.search(r"^#   costs    ([\d,]+) evaluations without gradient$", text, re.M)
    with_gradient, without = budgets.of_recipe(read(method), BATCH)
    assert with_gradient == 320_000
    assert stated and int(stated[1].replace(",", "")) == without


def test_a_method_beyond_the_budget_is_seen():
    recipe = read("sid")
    stage = next(stage for stage in recipe.stages if stage.name == "score")
    stage.options["vars.updates"] = 2
    assert budgets.of_recipe(recipe, BATCH)[0] == 320_000 + 450 * BATCH


def test_a_yaml_alone_has_the_numbers_of_the_recipe():
    methods = dict.fromkeys(("reflow", "recouple", "distill"), "slimflow")
    methods |= {"score": "dmd", "moments": "mmd"}
    for name, method in methods.items():
        shared = yaml.safe_load((ARENA / f"methods/{method}.yaml").read_text())["vars"]
        own = yaml.safe_load((ARENA / f"{name}.yaml").read_text())["vars"]
        both = own.keys() & shared.keys()
        assert both and {key: own[key] for key in both} == {key: shared[key] for key in both}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_says_what_it_is_and_ends_in_a_table(method):
    first = (ARENA / f"methods/{method}.yaml").read_text().splitlines()[0]
    assert first.startswith("# ") and first.endswith(".")
    recipe = read(method)
    assert str(recipe.root) == f"runs/arena/{method}/1" and recipe.table


@pytest.mark.parametrize("path", sorted(ARENA.rglob("*.yaml")), ids=lambda path: str(path.relative_to(ARENA)))
def test_headers_name_files_that_exist(path):
    header = "".join(line for line in path.read_text().splitlines(True) if line.startswith("#"))
    assert header
    for found in re.findall(r"experiments/[\w/]+\.yaml", header):
        assert (REPOSITORY / found).is_file(), found


@pytest.mark.parametrize("path", RUN, ids=lambda path: path.name)
def test_the_command_in_the_header_parses(path, cli):
    words = re.search(r"^#\s+run\s.*?flowlit (.+)$", path.read_text(), re.M)[1].split()
    outcome = cli(*words, "--print_config")
    assert outcome.code == 0, outcome.err


SIZED = [path for path in RUN if path.parent == ARENA and path.stem != "clock"]


@pytest.mark.parametrize("path", SIZED, ids=lambda path: path.name)
def test_one_variable_is_the_resolution_of_images_networks_and_noise(path, cli):
    words = re.search(r"^#\s+run\s.*?flowlit (.+)$", path.read_text(), re.M)[1].split()
    outcome = cli(*words, "--vars.resolution", "32", "--print_config")
    assert outcome.code == 0, outcome.err
    sizes = re.findall(r"resolution: '?(\d+)|shape:\s+- 3\s+- '?(\d+)'?\s+- '?(\d+)", outcome.out)
    assert sizes and {size for found in sizes for size in found if size} == {"32"}


@pytest.fixture
def arena(tmp_path, monkeypatch):
    """A teacher and its pairs, of two steps; runs a recipe that includes a shipped one."""
    labelled_images(tmp_path / "train-0.zip")
    layer = random_features(tmp_path)

    def run(command, env):
        outcome = in_process(*command[3:])
        if outcome.code:
            print(outcome.err, file=sys.stderr)
        return outcome.code

    monkeypatch.setattr(pipeline, "run_child", run)

    def recipe(name, root, evaluations, *words, **vars):
        stages = {stage: {"config": [*configs, layer]} for stage, configs in evaluations.items()}
        content = {"include": f"experiments/recipes/{name}.yaml", "vars": vars, "stages": stages}
        content |= {"root": str(root)} if root else {}
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
        outcome = in_process("pipeline", "-c", tmp_path / "recipe.yaml", *words)
        assert outcome.code == 0, outcome.err
        return outcome.out

    return recipe


@pytest.mark.slow
@pytest.mark.journey
def test_methods_run_side_by_side_into_one_table(arena, tmp_path):
    shared = tmp_path / "arena/shared"
    small = {"teacher_width": 8, "teacher_steps": 2, "batch_size": 8, "pairs": 32, "num": 16}
    small |= {"student_width": 8, "reflow_steps": 2, "distill_steps": 2, "shared": str(shared)}
    small |= {"score_steps": 2, "mid_steps": 2, "wait": 1}
    small["teacher"] = str(shared / "teacher/checkpoints/last.ckpt")
    evaluation = ["experiments/arena/evaluate.yaml", "experiments/arena/layers/many_steps.yaml"]
    images = str(tmp_path / "train-*.zip")
    arena("arena_teacher", "", {"evaluate_teacher": evaluation}, images=images, **small)
    assert json.loads((shared / "couplings/manifest.json").read_text())["counts"]
    methods = ("slimflow", "no_guidance", "naive", "plain_reflow", "dmd", "msd")
    methods += ("shortcut", "mean_flow_teacher", "cmt_lagrangian")
    for method in methods:
        stages = {stage.name: stage.configs for stage in read(method).stages if stage.command == "validate"}
        root = f"{tmp_path}/arena/${{vars.method}}/${{vars.seed}}"
        out = arena("arena", root, stages, "--vars.method", method, **small)
        assert "one step" in out or "one jump" in out
    outcome = in_process("arena", tmp_path / "arena")
    assert outcome.code == 0, outcome.err
    assert "different: " not in outcome.out and "several machines" not in outcome.out
    for method in methods:
        assert method in outcome.out


WEIGHTS = sorted((REPOSITORY / "data/weights").glob("*.safetensors"))


@pytest.mark.parametrize("path", WEIGHTS, ids=lambda path: path.stem)
def test_kept_weights_are_those_of_their_card(path):
    card = path.with_suffix(".md").read_text()
    generator = flowlit.load(path)
    assert file_hash(path) in card and path.stat().st_size <= 16 << 20
    assert f"{sum(p.numel() for p in generator.network.parameters()):,} parameters" in card
    assert generator.num_classes == 10
    for found in re.findall(r"experiments/[\w/]+\.yaml", card):
        assert (REPOSITORY / found).is_file(), found


@pytest.mark.parametrize("name", ["arena_shared", "arena_teacher"])
def test_couplings_and_figures_are_of_the_same_teacher(name):
    recipe = Recipe.read(f"experiments/recipes/{name}.yaml")
    recipe.settle(dry_run=True)
    stages = {stage.name: stage for stage in recipe.stages}
    kept = name == "arena_shared"
    own = "${vars.root}/teacher/checkpoints/last.ckpt"
    teacher = "data/weights/arena_teacher.safetensors" if kept else own
    assert ("teacher" in stages) != kept
    assert stages["couple"].options["vars.teacher"] == teacher
    assert stages["evaluate_teacher"].options["vars.checkpoint"] == teacher


RECORDS = REPOSITORY / "benchmarks/results/arena"
HALVES = {"two_steps", "pseudo_huber", "guide_first"}
"""Methods whose first seed was measured on another machine, before there were records."""
FIRST = {"mmd", "realuid", "sid", "sim"}
"""Methods of which the first seed alone was measured."""
MACHINES = {"Intel(R) Xeon(R) Processor": "A", "AMD EPYC": "B"}


def machines(method: str) -> str:
    """Letters of the machines that a method's kept reports name, as the tables write them."""
    reports = (RECORDS / method).glob("*/*/metrics.json")
    return ", ".join(
        sorted({MACHINES[json.loads(path.read_text())["hardware"]["device"]] for path in reports})
    )


def test_published_distances_are_what_kept_records_have():
    arena = compare(find_runs(RECORDS), "")
    assert {row.method for row in arena.rows} <= set(METHODS) and not arena.incomplete
    published = (REPOSITORY / "docs/results/arena.md").read_text()
    one_step, maps = published.split("## Flow maps")
    short = (REPOSITORY / "docs/results.md").read_text()
    seen = set()
    for row in arena.rows:
        assert row.with_gradient == 320_000
        measured = [seed for seed, without in (("1", HALVES), ("2", FIRST)) if row.method not in without]
        assert row.seeds == measured, row.name
        if row.method in HALVES:
            continue
        distance = f"{row.distance:.1f}" if row.spread is None else f"{row.distance:.4g} ± {row.spread:.2g}"
        for line in maps.partition("![")[0].splitlines():
            if re.match(rf"{row.name}  +\d", line) and row.nfe <= 4:
                _, *cells = re.split(r"  +", line)
                assert cells[(1, 2, 4).index(row.nfe)] == distance, row.name
                assert cells[-1] == f"{row.processor_hours:.2f}", row.name
                seen.add(row.method)
        for line in one_step.splitlines():
            if re.match(rf"{row.name}  +\d", line) and row.nfe == 1:
                _, *cells = re.split(r"  +", line)
                kernel, hours = f"{row.kernel:.3f}", f"{row.processor_hours:.2f}"
                seeds = f"{len(row.seeds)}"
                assert cells[:4] == [distance, seeds, f"{row.extrapolated:.1f}", kernel], row.name
                assert cells[-2:] == [hours, machines(row.method)] and line in short, row.name
                seen.add(row.method)
    assert seen | HALVES == {row.method for row in arena.rows}
