"""A recipe runs what must run, goes on where it stopped, and ends with a table."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import runs
import tiny
import torch
from commandline import REPOSITORY, in_process
from PIL import Image

from flowlit.commands.pipeline import recipe as pipeline
from flowlit.commands.pipeline.recipe import Recipe, Stage
from flowlit.commands.pipeline.state import locked, read_state
from flowlit.commands.pipeline.summary import format_table
from flowlit.errors import FlowlitError, Stopped

RECIPE = "experiments/recipes/slimflow_digits.yaml"
STAGES = [
    "features",
    "teacher",
    "couple",
    "reflow",
    "recouple",
    "distill",
    "evaluate_teacher",
    "evaluate_reflow",
    "evaluate_distill",
]
KEYS = {"model", "params", "nfe", "frechet", "features", "straightness", "images_per_s"}


# decisions, with
# fake stages


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """a -> b -> d, a -> c; each "command" writes its file and is noted in ``recipe.ran``."""
    for name in "abcd":
        tiny.write(tmp_path / f"{name}.yaml", {"value": name, "list": [1, {"x": 2}]})
    stages = [
        Stage("a", "fit", str(tmp_path / "a.yaml"), "a/last.ckpt"),
        Stage("b", "couple", str(tmp_path / "b.yaml"), "b/manifest.json", ["a"]),
        Stage("c", "validate", str(tmp_path / "c.yaml"), "c/metrics.json", ["a"]),
        Stage("d", "fit", str(tmp_path / "d.yaml"), "d/last.ckpt", ["b"]),
    ]
    fake = Recipe(tmp_path / "root", stages, [])
    fake.ran, fake.codes = [], {}

    def run(words, env):
        stage = next(s for s in stages if s.config == words[words.index("-c") + 1])
        fake.ran.append((stage.name, words[3:]))
        code = fake.codes.get(stage.name, 0)
        if code == 0:
            (fake.root / stage.writes).write_text(stage.name)
        return code

    monkeypatch.setattr(pipeline, "run_child", run)
    return fake


def go(recipe):
    """Run it; return the names of the stages that ran."""
    recipe.ran.clear()
    for plan in recipe.plans():
        recipe.run(plan)
    return [name for name, _ in recipe.ran]


def actions(recipe):
    return "".join(plan.action[0] for plan in recipe.plans())  # d(one), r(un or resume)


def test_everything_runs_once(recipe):
    assert actions(recipe) == "rrrr"
    assert go(recipe) == ["a", "b", "c", "d"]
    assert actions(recipe) == "dddd"
    assert go(recipe) == []


@pytest.mark.parametrize(("changed", "expected"), [("a", "abcd"), ("b", "bd"), ("c", "c"), ("d", "d")])
def test_a_change_reruns_what_depends_on_it(recipe, changed, expected):
    go(recipe)
    recipe.override([f"--{changed}.model.width", "24"])
    reasons = {plan.stage.name: plan.reason for plan in recipe.plans()}
    assert reasons[changed] == "changed: --model.width: unset → 24"
    assert all("depends on" in reasons[name] for name in expected if name != changed)
    assert "".join(go(recipe)) == expected


def test_a_change_of_a_file_is_seen_and_comments_are_not(recipe, tmp_path):
    go(recipe)
    path = tmp_path / "b.yaml"
    path.write_text("# a remark\n" + path.read_text())
    assert actions(recipe) == "dddd"
    tiny.write(path, {"value": "b", "list": [1, {"x": 3}]})
    plans = {plan.stage.name: plan for plan in recipe.plans()}
    assert plans["b"].reason == "changed: list.1.x: 2 → 3"
    assert "".join(go(recipe)) == "bd"


def test_a_change_of_a_fragment_is_seen(recipe, tmp_path):
    tiny.write(tmp_path / "parts/net.yaml", {"width": 8})
    tiny.write(tmp_path / "d.yaml", {"network": "parts/net.yaml"})
    go(recipe)
    tiny.write(tmp_path / "parts/net.yaml", {"width": 16})
    assert recipe.plans()[3].reason == "changed: network.width: 8 → 16"


def test_going_back_brings_the_old_results_back(recipe):
    go(recipe)
    recipe.override(["--a.x", "1"])
    assert go(recipe) == ["a", "b", "c", "d"]
    (recipe.root / "a/last.ckpt").write_text("new")
    recipe.stages[0].options.clear()
    assert go(recipe) == []
    assert (recipe.root / "a/last.ckpt").read_text() == "a"
    recipe.override(["--a.x=1"])
    assert go(recipe) == []
    assert (recipe.root / "a/last.ckpt").read_text() == "new"


def test_a_failed_stage_stops_the_pipeline_and_is_taken_up_again(recipe):
    recipe.codes["b"] = 1
    with pytest.raises(FlowlitError, match="stage b failed with exit code 1"):
        go(recipe)
    assert [name for name, _ in recipe.ran] == ["a", "b"]
    plans = {plan.stage.name: plan for plan in recipe.plans()}
    assert (plans["a"].action, plans["b"].action, plans["b"].reason) == (
        "done",
        "resume",
        "it was interrupted",
    )
    recipe.codes.clear()
    assert go(recipe) == ["b", "c", "d"]


def test_an_interrupted_fit_goes_on_from_its_checkpoint(recipe):
    recipe.codes["d"] = -9
    with pytest.raises(FlowlitError):
        go(recipe)
    assert "--resume" not in recipe.ran[-1][1]
    recipe.codes.clear()
    go(recipe)
    assert recipe.ran[-1][1][-2:] == ["--resume", "auto"]


def test_a_lost_result_is_made_again(recipe):
    go(recipe)
    (recipe.root / "c/metrics.json").unlink()
    assert "has disappeared" in recipe.plans()[2].reason
    assert go(recipe) == ["c"]


@pytest.mark.parametrize("end", ["failed", "stopped"])
def test_the_time_of_an_interrupted_stage_counts(recipe, monkeypatch, end):
    now = [0.0]
    monkeypatch.setattr(pipeline.time, "monotonic", lambda: now[0])
    done = pipeline.run_child

    def run(words, env, seconds, code=0):
        now[0] += seconds
        if code and end == "stopped":
            raise Stopped(2)
        return code or done(words, env)

    monkeypatch.setattr(pipeline, "run_child", lambda words, env: run(words, env, 40, 1))
    with pytest.raises((FlowlitError, Stopped)):
        go(recipe)
    monkeypatch.setattr(pipeline, "run_child", lambda words, env: run(words, env, 5))
    recipe.run(recipe.plans()[0])
    state = read_state(recipe.root / "a")
    assert (state["done"], state["seconds"]) == (True, 45)


def test_a_stage_that_writes_nothing_is_told(recipe, monkeypatch):
    recipe.stages[0].writes = "a/other.ckpt"
    monkeypatch.setattr(pipeline, "run_child", lambda words, env: 0)
    with pytest.raises(FlowlitError, match=r"a ended without writing .*other\.ckpt; check `writes`"):
        go(recipe)


def test_the_words_of_a_stage(tmp_path):
    stage = Stage(
        "s",
        "fit",
        ["a.yaml", "b.yaml"],
        "s/x",
        options={"trainer.max_steps": 3, "x": [1, 2], "y": "z", "n": None},
    )
    assert stage.arguments(tmp_path) == [
        *["fit", "-c", "a.yaml", "-c", "b.yaml", "--vars.root", str(tmp_path)],
        *["--trainer.max_steps", "3", "--x", "[1, 2]", "--y", "z", "--n", "null"],
    ]


# -------------------------------------------------------------------------------------------------------
# wrong recipes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"root": "r", "stages": {}, "tabel": []}, r"unknown keys \['tabel'\]"),
        ({"stages": {}}, "is not a recipe; expected root and stages"),
        ({"root": "r", "stages": {"a": {"command": "fit", "confg": "x"}}}, "stage a: .*confg"),
        (
            {
                "root": "r",
                "stages": {"a": {"command": "fit", "config": "x", "writes": "a/y", "needs": ["b"]}},
            },
            r"needs \['b'\]",
        ),
    ],
)
def test_a_wrong_recipe_is_refused(tmp_path, content, message):
    path = tiny.write(tmp_path / "recipe.yaml", content)
    outcome = in_process("pipeline", "-c", path)
    assert outcome.code == 1 and re.search(message, outcome.error), outcome.err


def test_a_missing_or_broken_recipe(cli, tmp_path):
    assert (
        "nope.yaml does not exist; the shipped ones are in experiments/recipes/"
        in cli("pipeline", "-c", "nope.yaml").error
    )
    (tmp_path / "broken.yaml").write_text("stages: [unclosed\n")
    assert "is not valid YAML" in cli("pipeline", "-c", tmp_path / "broken.yaml").error
    content = {
        "root": str(tmp_path),
        "stages": {"a": {"command": "fit", "config": "no.yaml", "writes": "a/x"}},
    }
    assert "no.yaml does not exist" in cli("pipeline", "-c", tiny.write(tmp_path / "r.yaml", content)).error


@pytest.mark.parametrize("words", [["--nope.x", "1"], ["--reflow", "1"], ["reflow.x", "1"], ["--reflow.x"]])
def test_an_unknown_override_names_the_stages(cli, tmp_path, words):
    error = cli("pipeline", "-c", RECIPE, "--root", tmp_path, "--dry-run", *words).error
    assert f"unknown argument {words[0]!r}" in error and "stages are features, teacher, couple" in error


def test_dry_run_runs_nothing(cli, tmp_path):
    outcome = cli("pipeline", "-c", RECIPE, "--root", tmp_path / "root", "--dry-run")
    assert outcome.code == 0
    assert [line.split()[:2] for line in outcome.out.splitlines()] == [[name, "run"] for name in STAGES]
    assert outcome.out.count("it has not run yet") == len(STAGES)
    assert not (tmp_path / "root").exists()


def test_a_dry_run_names_variables_and_inputs_that_are_missing(tmp_path):
    recipe = "experiments/recipes/arena_shared.yaml"
    words = ("pipeline", "-c", recipe, "--root", tmp_path / "root", "--vars.images", tmp_path / "nowhere.zip")
    planned = in_process(*words, "--dry-run")
    assert planned.code == 0
    first = planned.out.splitlines()[0]
    assert first.startswith("variables: ") and first.endswith("; another value by --vars.NAME VALUE")
    assert f"images={tmp_path / 'nowhere.zip'}" in first and "resolution=16" in first
    assert "it would not begin: stage images reads" in planned.out and "nowhere.zip" in planned.out
    error = in_process(*words).error
    assert "nowhere.zip" in error and not list(tmp_path.rglob("*.zip"))


@pytest.mark.parametrize(
    "name, words", [("kid_subset", "--evaluate_teacher.vars.kid_subset 8"), ("root", "--root 8")]
)
def test_a_variable_of_stages_alone_is_named_with_the_words_that_set_it(tmp_path, name, words):
    error = in_process("pipeline", "-c", RECIPE, "--root", tmp_path, f"--vars.{name}", "8").error
    assert "stage " in error and f"has it: {words}" in error


# the digits recipe, as
# small as it gets

FITS = ("teacher", "reflow", "distill")


def overrides(width=8):
    words = []
    for stage in ("features", *FITS):
        words += [
            f"--{stage}.trainer.max_steps",
            6,
            f"--{stage}.trainer.val_check_interval",
            6,
            f"--{stage}.data.batch_size",
            16,
        ]
    for stage in FITS:
        words += [f"--{stage}.data.noise.num", 16]
    words += ["--teacher.model.network.width", 16, "--reflow.model.network.width", width]
    for stage in ("couple", "recouple"):
        words += [f"--{stage}.num", 60, f"--{stage}.shard_size", 25, f"--{stage}.batch_size", 25]
    for stage in ("evaluate_teacher", "evaluate_reflow", "evaluate_distill"):
        words += [
            f"--{stage}.data.noise.num",
            100,
            f"--{stage}.data.noise_batch_size",
            50,
            f"--{stage}.vars.kid_subset",
            20,
        ]
    return words


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Run the recipe with each stage in this process (the imports of nine processes would take a minute)."""
    root, started = tmp_path_factory.mktemp("digits"), []

    def run(words, env):
        started.append(words[3:])
        outcome = in_process(*words[3:])
        if outcome.code:
            print(outcome.out, outcome.err)
        return outcome.code

    def recipe(*more, width=8):
        started.clear()
        outcome = in_process("pipeline", "-c", RECIPE, "--root", root, *overrides(width), *more)
        return outcome, [Recipe.read(RECIPE).stages[_stage(words)].name for words in started]

    def _stage(words):
        text = " ".join(words)
        return next(
            i
            for i, stage in enumerate(Recipe.read(RECIPE).stages)
            if stage.configs[0] in text
            and all(f"--{key} {value}" in text for key, value in stage.options.items())
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        patch.setattr(pipeline, "run_child", run)
        first = recipe()
        yield SimpleNamespace(root=root, run=recipe, first=first)


def table(outcome):
    assert outcome.code == 0, outcome.err
    return outcome.out[outcome.out.rindex("model  ") :]


@pytest.mark.journey
def test_the_recipe_runs_to_its_table(digits):
    outcome, ran = digits.first
    assert ran == STAGES
    rows = json.loads((digits.root / "summary.json").read_text())
    assert [row["model"] for row in rows] == [entry["model"] for entry in Recipe.read(RECIPE).table]
    for row in rows:
        assert row.keys() == KEYS
        assert row["features"] == "digits" and row["frechet"] > 0 and row["images_per_s"] > 0
        assert row["model"] in table(outcome) and f"{row['frechet']:.4g}" in table(outcome)
    one_step = {row["model"]: row["nfe"] for row in rows if "one" in row["model"]}
    assert set(one_step.values()) == {1.0}
    params = {row["model"].split(",")[0]: row["params"] for row in rows}
    assert params["teacher"] > params["reflow student"] == params["distilled student"]
    assert [row["straightness"] is None for row in rows] == [False] * 4 + [True]
    sheet = Image.open(digits.root / "samples.png")
    assert sheet.height > 5 * 24 and sheet.width > 100
    assert len(sheet.convert("L").getcolors(1000)) > 20, "the picture is empty"
    assert "Fréchet (digits features)" in outcome.out and "tensorboard --logdir" in outcome.out


@pytest.mark.journey
def test_a_second_run_starts_nothing_and_prints_the_same(digits):
    again, ran = digits.run()
    assert ran == []
    assert table(again) == table(digits.first[0])


@pytest.mark.journey
@pytest.mark.slow
def test_another_width_reruns_what_depends_on_it_and_going_back_nothing(digits):
    before = json.loads((digits.root / "summary.json").read_text())
    plan, ran = digits.run("--dry-run", width=12)
    assert ran == [] and "changed: --model.network.width: 8 → 12" in plan.out
    _, ran = digits.run(width=12)
    assert ran == ["reflow", "recouple", "distill", "evaluate_reflow", "evaluate_distill"]
    assert json.loads((digits.root / "summary.json").read_text())[:2] == before[:2]  # the teacher's rows
    _, ran = digits.run()
    assert ran == []
    assert json.loads((digits.root / "summary.json").read_text()) == before


@pytest.mark.journey
def test_an_evaluation_without_its_callbacks_is_told(digits, tmp_path):
    from flowlit.commands.pipeline.summary import read_rows

    entry = {"model": "m", "stage": "evaluate_teacher", "solver": "heun"}
    with pytest.raises(FlowlitError, match="no complete metrics for solver 'heun'"):
        read_rows(digits.root, [entry])
    with pytest.raises(FlowlitError, match="no complete metrics"):
        read_rows(tmp_path, [entry])


def test_the_table_names_its_features():
    row = {
        "model": "a",
        "params": 1234,
        "nfe": 1.0,
        "frechet": 2.5,
        "features": "inception",
        "straightness": None,
        "images_per_s": 9.0,
    }
    text = format_table([row])
    assert "Fréchet (inception features)" in text and "1,234" in text and " 2.5 " in text and "–" in text


def test_an_evaluation_without_a_distance_has_a_dash_in_the_table(tmp_path):
    from flowlit.commands.pipeline.summary import read_rows

    metrics = {"nfe/euler1": 1.0, "images_per_s/euler1": 9.0}
    report = {"format": "flowlit-metrics", "version": 2, "metrics": metrics, "params": 1234}
    (tmp_path / "evaluate").mkdir()
    (tmp_path / "evaluate/metrics.json").write_text(json.dumps(report))
    rows = read_rows(tmp_path, [{"model": "a", "stage": "evaluate", "solver": "euler1"}])
    assert rows[0]["frechet"] is None and rows[0]["features"] is None
    text = format_table(rows)
    assert "Fréchet (no features)" in text and text.splitlines()[-1].count("–") == 2


# kill -9,
# for real


@pytest.mark.journey
@pytest.mark.slow
def test_kill_9_in_the_middle_of_a_stage(tmp_path):
    """Kill a stage's process, then the pipeline with its stage; the third run ends as an undisturbed one."""
    callbacks = [
        tiny.EMA,
        {"class_path": "tiny.KillAt", "init_args": {"step": 3, "once": str(tmp_path / "killed")}},
    ]
    config = tiny.fit("${vars.root}/a", callbacks=[*callbacks, tiny.checkpoints(2)], steps=8)
    config["vars"] = {"root": "unused"}
    path = tiny.write(tmp_path / "a.yaml", config)
    stages = {"a": {"command": "fit", "config": str(path), "writes": "a/checkpoints/last.ckpt"}}
    recipe = tiny.write(tmp_path / "recipe.yaml", {"root": str(tmp_path / "root"), "stages": stages})
    environment = {**os.environ, "PYTHONPATH": str(runs.HELPERS)}
    words = [sys.executable, "-m", "flowlit", "pipeline", "-c", str(recipe), "--trust"]  # tiny.KillAt

    first = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert first.returncode == 1 and "stage a failed with exit code -9" in first.stderr

    second = subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, start_new_session=True
    )
    time.sleep(1.5)
    os.killpg(second.pid, signal.SIGKILL)  # while its stage is still importing
    second.wait()

    third = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert third.returncode == 0, third.stderr
    assert (
        re.search(r"a +resume +it was interrupted", third.stdout)
        and "--resume auto" in third.stdout
        and "going on from" in third.stderr
    )

    assert in_process("fit", "-c", path, "--vars.root", tmp_path / "whole").code == 0
    assert tiny.same(
        *(tiny.weights(tmp_path / name / "a/checkpoints/last.ckpt") for name in ("root", "whole"))
    )


def test_a_yaml_named_in_an_option_counts(recipe, tmp_path):
    """Only its name was part of the key."""
    part = tmp_path / "part.yaml"
    part.write_text("width: 8")
    recipe.override([f"--{recipe.stages[0].name}.model.network", str(part)])
    before = recipe.plans()[0].key
    part.write_text("width: 16")
    assert recipe.plans()[0].key != before


def test_two_pipelines_cannot_work_in_one_root(tmp_path):
    with (
        locked(tmp_path),
        pytest.raises(FlowlitError, match="another pipeline is at work"),
        locked(tmp_path),
    ):
        pass
    with locked(tmp_path):
        pass


def test_two_stages_cannot_share_a_folder(tmp_path):
    path = tmp_path / "recipe.yaml"
    stage = "{command: fit, config: x.yaml, writes: same/last.ckpt}"
    path.write_text(f"root: {tmp_path}\nstages:\n  a: {stage}\n  b: {stage}\n")
    with pytest.raises(FlowlitError, match="a and b write into the same folder"):
        Recipe.read(str(path))


def test_an_evaluation_by_hand_does_not_get_into_the_table(recipe):
    assert go(recipe) == ["a", "b", "c", "d"]
    (recipe.root / "c/metrics.json").write_text("measured by hand, on fewer images")
    assert actions(recipe) == "ddrd" and "replaced by hand" in recipe.plans()[2].reason
    assert go(recipe) == ["c"] and actions(recipe) == "dddd"


@pytest.mark.journey
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.slow
def test_a_pipeline_that_is_told_to_stop_lets_its_stage_save(tmp_path, signum):
    """The signal reaches the pipeline alone, from `kill` or a terminal's Ctrl-C: stages have process groups
    of their own.
    """
    callbacks = [
        tiny.EMA,
        {"class_path": "announce.Announce", "init_args": {"path": str(tmp_path / "begun")}},
        tiny.checkpoints(10**6),
    ]
    content = {**tiny.fit("${vars.root}/a", callbacks=callbacks, steps=10**6), "vars": {"root": ""}}
    tiny.write(tmp_path / "a.yaml", content)
    stage = {"command": "fit", "config": str(tmp_path / "a.yaml"), "writes": "a/checkpoints/last.ckpt"}
    tiny.write(tmp_path / "recipe.yaml", {"root": str(tmp_path / "root"), "stages": {"a": stage}})
    words = [sys.executable, "-m", "flowlit", "pipeline", "-c", str(tmp_path / "recipe.yaml"), "--trust"]
    running = subprocess.Popen(
        words,
        env={**os.environ, "PYTHONPATH": str(runs.HELPERS)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 90
    while not (tmp_path / "begun").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    running.send_signal(signum)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 128 + signum
    assert errors.rstrip().endswith("the pipeline is stopped; the same command goes on with it")
    assert torch.load(tmp_path / "root/a/checkpoints/last.ckpt", weights_only=True)["global_step"] > 2
