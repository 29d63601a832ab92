"""Recorded runs become one table, one plot and one sheet; what cannot be compared is refused or named."""

import json
import shutil
import subprocess
import sys

import msgspec
import pytest
import stores
from commandline import in_process
from hostile_bytes import VALUES, as_json, places, replaced
from PIL import Image

from flowlit.commands.arena.plot import plot
from flowlit.commands.arena.record import ARENA, encode
from flowlit.commands.arena.rows import compare
from flowlit.commands.arena.runs import find_runs
from flowlit.commands.arena.table import format_table
from flowlit.commands.pipeline.state import write_state
from flowlit.errors import FlowlitError
from flowlit.metrics.training_cost import Evaluations, TrainingCosts

FEATURES = "efficientnet_lite0_112"


def stage(root, name, command, done=True, **content):
    state = {"key": "0123456789abcdef", "done": done, "seconds": 1800.0, "result": None}
    write_state(root / name, state | {"content": {"command": command, "--vars.seed": root.name, **content}})


def report(distances, features=FEATURES, params=1000, **changes):
    """A report of several solvers, euler1 first."""
    metrics = {}
    for steps, distance in enumerate(distances, 1):
        metrics |= {f"nfe/euler{steps}": float(steps), f"images_per_s/euler{steps}": 2000.0 / steps}
        metrics |= {f"frechet_{features}/euler{steps}": distance}
        metrics |= {f"frechet_{features}_half/euler{steps}": 99.0}
    facts = {"sha256": "ab" * 32, "images": 10_000, "reference": {"sha256": "cd" * 32, "count": 50_000}}
    return {
        "format": "flowlit-metrics",
        "version": 2,
        "metrics": metrics,
        "params": params,
        "features": {features: facts},
        "noise": {"seed": 7},
        **changes,
    }


def measure(root, content, name="evaluate", command="validate"):
    stage(root, name, command)
    file = {"validate": "metrics.json", "test": "metrics_test.json"}[command]
    (root / name / file).write_bytes(as_json(content))
    for tag in content["metrics"]:
        if tag.startswith("nfe/"):
            (root / name / "samples").mkdir(exist_ok=True)
            Image.new("RGB", (8, 8), "red").save(root / name / f"samples/{tag[4:]}.png")


def train(root, with_gradient=1000, without_gradient=500, name="distill", **changes):
    stage(root, name, "fit", **{"trainer.max_steps": 10})
    networks = {"network": Evaluations(with_gradient, 0), "guide": Evaluations(0, without_gradient)}
    costs = TrainingCosts(10, 80, networks, 1700.0, 3600.0, **changes)
    (root / name / "training_cost.json").write_bytes(msgspec.json.encode(costs))


@pytest.fixture
def runs(tmp_path):
    """Two methods of two seeds."""
    for method, base in (("slimflow", 10.0), ("naive", 20.0)):
        for seed in "01":
            root = tmp_path / "runs" / method / seed
            train(root)
            measure(root, report([base + int(seed), base - 4 + int(seed)]))
    return tmp_path / "runs"


def arena(runs, features=""):
    """Compare without drawing."""
    result = compare(find_runs(runs), features)
    return result, "\n".join([format_table(result), *result.notes])


def drawn(runs, *words):
    outcome = in_process("arena", runs, *words)
    assert outcome.code == 0, outcome.err
    return ARENA.check(ARENA.read(runs / "arena.json"), "arena.json"), outcome.out


def row(out, *cells):
    """The line of the table that begins with these cells."""
    (line,) = [line for line in out.splitlines() if line.split()[: len(cells)] == list(cells)]
    return line


def test_means_and_spreads_of_seeds_are_sorted_by_distance(runs):
    result, out = arena(runs)
    assert [(row.name, row.solver) for row in result.rows] == [
        ("slimflow", "euler2"),
        ("slimflow", "euler1"),
        ("naive", "euler2"),
        ("naive", "euler1"),
    ]
    first = result.rows[1]
    assert (first.distance, first.seeds, first.parameters, first.nfe) == (10.5, ["0", "1"], 1000, 1.0)
    assert first.spread == pytest.approx(0.5**0.5)
    assert (first.with_gradient, first.without_gradient, first.processor_hours) == (1000, 500, 1.0)
    assert (first.hours, first.images_per_s, first.off_budget) == (0.5, 2000, False)
    assert row(out, "slimflow", "euler1").split() == [
        *("slimflow", "euler1", "1,000", "1", "10.5", "±", "0.71", "2"),
        *("1,000", "500", "0.50", "1.00", "2,000"),
    ]
    assert f"Fréchet distance of 10,000 images against 50,000 real ones in {FEATURES} features" in out
    assert (result.incomplete, result.notes) == ({}, [])


def test_a_plot_and_a_sheet_of_one_grid_a_method_are_written(runs, tmp_path):
    result, out = drawn(runs)
    assert msgspec.to_builtins(result) == msgspec.to_builtins(arena(runs)[0])
    assert list(result.samples) == ["slimflow, euler1", "naive, euler1"]
    for name in ("arena.json", "arena.png", "samples.png"):
        assert (runs / name).exists() and f"{runs / name}" in out
    assert Image.open(runs / "samples.png").height > 2 * 1000
    assert in_process("arena", runs, "--into", tmp_path / "docs/arena").code == 0
    again = (tmp_path / "docs/arena/arena.json").read_bytes()
    assert again == (runs / "arena.json").read_bytes(), "what it wrote before is no run, and nothing is dated"


def test_methods_beyond_the_number_of_colours_have_other_markers(tmp_path):
    for number in range(23):
        measure(tmp_path / f"method{number}/1", report([10.0 + number, 5.0]))
    handles, names = plot(arena(tmp_path)[0]).axes[2].get_legend_handles_labels()
    lines = [handle[0] for handle in handles]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == len(names) == 23


def test_the_first_panel_names_each_model_once_in_the_order_of_its_distance_in_fewest_evaluations(tmp_path):
    for method, distances in {"far": [30.0, 2.0], "near": [10.0, 5.0], "between": [20.0, 1.0]}.items():
        measure(tmp_path / method / "1", report(distances))
    ranked = plot(arena(tmp_path)[0]).axes[0]
    assert [label.get_text() for label in ranked.get_yticklabels()] == ["far (1)", "between (1)", "near (1)"]


def test_pairs_that_a_run_made_are_evaluations_without_gradient(runs):
    for seed in "01":
        root = runs / "naive" / seed
        stage(root, "couplings", "couple")
        stores.fill(root / "couplings", num=50)  # in two steps
    result, _ = arena(runs)
    assert {row.method: row.without_gradient for row in result.rows} == {"slimflow": 500, "naive": 600}


def test_a_budget_beyond_two_percent_of_the_median_is_marked(runs):
    for seed in "01":
        train(runs / "slimflow" / seed, 1019)
        shutil.copytree(runs / "naive" / seed, runs / "third" / seed)
        train(runs / "third" / seed, 1250, 0)
    result, out = arena(runs)
    assert {row.method for row in result.rows if row.off_budget} == {"third"}
    assert row(out, "third", "*", "euler1")
    assert "* third: 1,250 with gradient, the median is 1,019 (+23%)" in out


def test_what_all_methods_share_has_no_seed_and_no_budget(runs):
    shared = runs / "shared"
    train(shared, 10**6, 0, "teacher")
    result, _ = arena(runs)
    assert {row.method for row in result.rows} == {"slimflow", "naive"}
    measure(shared, report([5.0], params=9000), "evaluate_teacher")
    measure(shared, report([6.0], params=9000), "evaluate_average", "test")
    result, out = arena(runs)
    names = [row.name for row in result.rows if row.method == "shared"]
    assert names == ["teacher", "average"]
    assert not any(row.off_budget for row in result.rows)
    assert result.rows[0].seeds == [""] and result.rows[0].spread is None
    assert row(out, "teacher", "euler1").split()[3:5] == ["1", "5"]


def test_an_evaluation_without_training_has_dashes(runs):
    for seed in "01":
        measure(runs / "teacher_rk45" / seed, report([3.0]))
    result, out = arena(runs)
    assert result.rows[0].with_gradient is None and not result.rows[0].off_budget
    assert row(out, "teacher_rk45", "euler1").split()[-5:] == ["–", "–", "0.00", "–", "2,000"]


def test_a_method_of_which_a_training_was_not_counted_has_no_count(runs):
    for seed in "01":
        stage(runs / "naive" / seed, "reflow", "fit")
    result, out = arena(runs)
    naive = [row for row in result.rows if row.method == "naive"]
    assert {(row.with_gradient, row.processor_hours, row.off_budget) for row in naive} == {
        (None, None, False)
    }
    assert "not counted: the training of reflow (naive/0, naive/1)" in out


def test_extrapolated_and_kernel_distances_stand_beside(runs):
    for seed in "01":
        content = report([10.0])
        content["metrics"] |= {f"frechet_extrapolated_{FEATURES}/euler1": 8.0}
        content["metrics"] |= {f"kernel_distance_{FEATURES}/euler1": 0.25}
        measure(runs / "slimflow" / seed, content)
    result, out = arena(runs)
    assert (result.rows[0].extrapolated, result.rows[0].kernel) == (8.0, 0.25)
    assert "extrapolated  kernel" in out
    assert row(out, "naive", "euler1").split()[8:10] == ["–", "–"]


def test_a_table_for_a_document(runs):
    _, out = drawn(runs, "--markdown")
    lines = [line for line in out.splitlines() if line.startswith("|")]
    assert len(lines) == 6 and len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| slimflow | euler2 | 1,000 |")


# runs that are left out, and named


def unlinked(path):
    path.unlink()


def torn(path):
    path.write_bytes(path.read_bytes()[:-9])


def empty(path):
    path.write_bytes(b"")


def of_another_kind(path):
    path.write_bytes(b'{"format": "other", "version": 1}')


@pytest.mark.parametrize("damage", [unlinked, torn, empty, of_another_kind])
@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("evaluate/metrics.json", "metrics.json"),
        ("distill/training_cost.json", "training_cost.json"),
        ("distill/stage.json", "stage"),
    ],
)
def test_a_damaged_file_leaves_its_run_out(runs, file, words, damage):
    damage(runs / "naive/1" / file)
    result, out = arena(runs)
    assert [row.seeds for row in result.rows if row.method == "naive"] == [["0"]] * 2 or damage is unlinked
    if (file, damage) == ("distill/training_cost.json", unlinked):
        assert "not counted: the training of distill (naive/1)" in out
    else:
        assert list(result.incomplete) == ["naive/1"] and words in result.incomplete["naive/1"]
        assert f"left out: naive/1: {result.incomplete['naive/1']}" in out


def not_done(root):
    stage(root, "distill", "fit", done=False)


def without_evaluation(root):
    shutil.rmtree(root / "evaluate")


def not_a_number(root):
    measure(root, report([None, 2.0]))


def literal_nan(root):
    path = root / "evaluate/metrics.json"
    path.write_text(path.read_text().replace("21.0", "NaN"))


def without_parameters(root):
    measure(root, report([1.0], params=None))


def without_solvers(root):
    content = report([1.0])
    del content["metrics"]["nfe/euler1"]
    measure(root, content)


def counted_late(root):
    train(root, first_step=100)


def unfinished_pairs(root):
    stage(root, "couplings", "couple")
    stores.fill(root / "couplings", shards=[0], finish=False)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (not_done, "stage distill is not done"),
        (without_evaluation, "no stage has measured anything"),
        (not_a_number, f"evaluate has no finite frechet_{FEATURES}/euler1"),
        (literal_nan, "metrics.json is no report of metrics"),
        (without_parameters, "evaluate has no finite params"),
        (without_solvers, "evaluate has no finite nfe"),
        (counted_late, "the counts of stage distill begin at step 100"),
        (unfinished_pairs, "pairs of stage couplings are not all there"),
    ],
)
def test_an_unfinished_run_is_left_out_and_named(runs, change, reason):
    change(runs / "naive/1")
    result, out = arena(runs)
    assert reason in result.incomplete["naive/1"] and "left out: naive/1: " in out
    assert {tuple(row.seeds) for row in result.rows if row.method == "naive"} == {("0",)}


def test_a_run_that_lacks_a_stage_of_the_others_is_left_out(runs):
    train(runs / "naive/0", name="reflow")
    result, _ = arena(runs)
    assert result.incomplete == {"naive/1": "stage reflow has not run"}


def test_a_missing_seed_is_named(runs):
    shutil.rmtree(runs / "naive/1")
    _, out = arena(runs)
    assert "missing: naive has no seed 1" in out
    (runs / "naive/1").mkdir()
    _, out = arena(runs)
    assert "left out: naive/1: no stage has begun" in out and "missing:" not in out


def test_seeds_that_differ_in_more_than_seeds_are_named(runs):
    stage(runs / "naive/1", "distill", "fit", **{"trainer.max_steps": 20, "data.seed": 1})
    _, out = arena(runs)
    assert "different: naive/0 and naive/1 in distill: trainer.max_steps" in out and "seed" not in out.split()


@pytest.mark.parametrize("field", ["inputs", "contents"])
def test_other_couplings_of_the_same_path_are_named(runs, field):
    for place, digest in (("slimflow/0", "a"), ("slimflow/1", "a"), ("naive/0", "b"), ("naive/1", "a")):
        for name, command in (("distill", "fit"), ("evaluate", "validate")):
            path = runs / place / name / "stage.json"
            state = json.loads(path.read_text())
            stamps = {"inputs": {"shared/couplings": f"9 bytes, {place}" if field == "contents" else digest}}
            stamps[field] = {"shared/couplings": digest, f"cache of {place}": digest}
            assert state["content"]["command"] == command
            write_state(path.parent, state | stamps)
    _, out = arena(runs)
    expected = "different: shared/couplings was another when naive/1, slimflow/0, slimflow/1 read it than for"
    assert f"{expected} naive/0" in out and out.count("different: ") == 1


def test_several_machines_are_named(runs):
    for seed, device in (("0", "EPYC"), ("1", "Xeon")):
        hardware = {"device": device, "threads": 2}
        measure(runs / "naive" / seed, report([20.0, 16.0], hardware=hardware))
    _, out = arena(runs)
    assert "several machines: EPYC, threads: 2 (1 reports, naive/0, evaluate); Xeon, threads: 2" in out
    measure(runs / "naive/1", report([20.0, 16.0], hardware={"device": "EPYC", "threads": 2}))
    assert "several machines" not in arena(runs)[1]


def test_samples_that_are_missing_torn_or_of_other_noise_are_named(runs):
    (runs / "naive/0/evaluate/samples/euler1.png").write_bytes(b"no picture")
    result, out = arena(runs)
    assert list(result.samples) == ["slimflow, euler1"]
    assert "no samples of naive: " in out and "euler1.png cannot be read" in out
    for seed in "01":
        measure(runs / "naive" / seed, report([20.0], noise={"seed": 8}))
    assert "no samples of naive: they are from other noise" in arena(runs)[1]
    for method in ("naive", "slimflow"):
        shutil.rmtree(runs / method / "0/evaluate/samples")
    assert drawn(runs)[0].samples == {} and not (runs / "samples.png").exists()


# what is never mixed


def other(path, value):
    content = report([20.0, 16.0])
    node = content["features"][FEATURES]
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return content


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (other(["images"], 2000), "images 10,000 and 2,000"),
        (other(["sha256"], "ef" * 32), "features sha256 abababababab and efefefefefef"),
        (other(["reference", "sha256"], "ef" * 32), "reference cdcdcdcdcdcd and efefefefefef"),
        (other(["reference", "images"], "0bf59b9331cdd892"), "reference cdcdcdcdcdcd and 0bf59b9331cd"),
        (other(["reference", "count"], 10), "reference images 50,000 and 10"),
    ],
)
def test_other_protocols_are_never_mixed(runs, content, words):
    measure(runs / "slimflow/1", content)
    error = in_process("arena", runs).error
    assert "naive/0, evaluate and slimflow/1, evaluate were measured by different protocols" in error
    assert words in error and not (runs / "arena.json").exists()


def test_statistics_of_the_same_images_by_another_processor_are_the_same_reference(runs):
    for number, run in enumerate(sorted(runs.glob("*/*"))):
        content = other(["reference", "images"], "0bf59b9331cdd892")
        content["features"][FEATURES]["reference"]["sha256"] = f"{number:02d}" * 32
        measure(run, content)
    assert arena(runs)[0].protocol.reference == "0bf59b9331cdd892"


def test_other_features_are_never_mixed(runs):
    measure(runs / "slimflow/0", report([1.0], "digits"))
    error = in_process("arena", runs).error
    assert "naive/0, evaluate and slimflow/0, evaluate were measured in different features" in error
    assert f"{FEATURES}, and digits" in error


def test_one_of_several_features_is_chosen(runs):
    for run in runs.glob("*/*"):
        content = report([1.0], "digits")
        content["features"] |= report([1.0])["features"]
        content["metrics"] |= report([30.0])["metrics"]
        measure(run, content)
    assert "choose: --features digits" in in_process("arena", runs).error
    assert arena(runs, "digits")[0].rows[0].distance == 1.0
    assert arena(runs, FEATURES)[0].rows[0].distance == 30.0
    assert "no distance in digts features" in in_process("arena", runs, "--features", "digts").error


def test_whether_another_space_of_features_ranks_alike_is_said(runs):
    """Rows by distance: slimflow 6 and 10, naive 16 and 20; in other features the first two change places."""
    of_others = {"slimflow": [1.0, 2.0], "naive": [5.0, 4.0]}
    for run in runs.glob("*/*"):
        content = json.loads((run / "evaluate/metrics.json").read_text())
        other = report(of_others[run.parent.name], "digits")
        content["metrics"] |= other["metrics"]
        content["features"] |= other["features"]
        measure(run, content)
    line = "ranks in digits features: Spearman's correlation 0.80, 4 rows"
    assert line in arena(runs, FEATURES)[0].notes
    measure(runs / "naive/0", content | {"metrics": content["metrics"] | {"frechet_digits/euler1": None}})
    assert not any("Spearman" in note and "4 rows" in note for note in arena(runs, FEATURES)[0].notes)


def test_records_make_the_same_table_without_the_runs(runs, tmp_path):
    stage(runs / "slimflow/0", "recouplings", "couple")
    stores.fill(runs / "slimflow/0/recouplings", num=50)
    (runs / "naive/0/distill/weights.ckpt").write_bytes(b"large")
    stage(runs / "naive/2", "distill", "fit", done=False)
    shutil.rmtree(runs / "slimflow/1")
    kept = tmp_path / "kept"
    drawn(runs, "--records", kept)
    assert not list(kept.rglob("*.ckpt")) + list(kept.rglob("*.safetensors")) + list(kept.glob("naive/2"))
    again = compare(find_runs(kept), "")
    assert again.rows == compare(find_runs(runs), "").rows and len(again.samples) == 2
    shutil.rmtree(runs / "naive")
    drawn(runs, "--records", kept)
    assert {row.method for row in compare(find_runs(kept), "").rows} == {"slimflow", "naive"}


def test_records_beside_the_runs_themselves_are_refused(runs):
    outcome = in_process("arena", runs, "--records", runs)
    assert outcome.code == 1 and "another folder" in outcome.err


def test_networks_that_several_methods_share_are_shown_once(runs):
    """The student that all distil, of both seeds in slimflow, of one elsewhere; its distilled ones differ."""
    for run in runs.glob("*/*"):
        seed = run.name
        measure(run, report([50.0 + int(seed)], sha256=f"reflow {seed}"), "evaluate_reflow")
    shutil.rmtree(runs / "naive/1")
    result, _ = arena(runs)
    (shared,) = [row for row in result.rows if row.stage == "evaluate_reflow"]
    assert (shared.method, shared.distance, shared.seeds) == ("slimflow", 50.5, ["0", "1"])
    assert "shown once: evaluate_reflow of naive measured networks of slimflow" in result.notes
    shutil.rmtree(runs / "slimflow/1")
    result, _ = arena(runs)
    (shared,) = [row for row in result.rows if row.stage == "evaluate_reflow"]
    assert shared.method == "naive"
    assert len(result.rows) == 1 + 4


def test_rows_of_one_nfe_alone(runs):
    """All rows are recorded and drawn."""
    result, out = drawn(runs, "--nfe", "2")
    assert len(result.rows) == 4
    assert "euler2" in out and "euler1" not in out


def test_seeds_with_other_networks_are_never_mixed(runs):
    measure(runs / "naive/1", report([1.0, 2.0], params=2000))
    error = in_process("arena", runs).error
    assert "naive/0, evaluate and naive/1, evaluate have 1,000 and 2,000 parameters" in error


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: None, "is no folder; expected one with <method>/<seed>"),
        (lambda folder: folder.mkdir(), "has no finished run; expected <method>/<seed>"),
        (lambda folder: stage(folder / "a/0", "x", "fit", False), "(a/0: stage x is not done)"),
        (lambda folder: measure(folder / "a/0", report([None])), "has no run with finite distances"),
        (
            lambda folder: measure(folder / "a/0", report([])),
            "no Fréchet distance; the stage needs",
        ),
    ],
)
def test_a_folder_without_runs_is_one_error(tmp_path, make, words):
    make(tmp_path / "runs")
    assert words in in_process("arena", tmp_path / "runs").error


@pytest.mark.parametrize("place", list(places(report([1.0]))), ids=str)
def test_any_report_is_compared_left_out_or_refused(runs, place):
    for value in VALUES:
        (runs / "naive/1/evaluate/metrics.json").write_bytes(as_json(replaced(report([1.0]), place, value)))
        try:
            result, out = arena(runs)
        except FlowlitError as error:
            assert len(str(error)) < 1500
        else:
            assert encode(result) and out


def test_it_needs_no_torch(runs):
    code = (
        "import sys; from flowlit.commands import main; main(['arena', sys.argv[1]]); "
        "assert not {'torch', 'lightning'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(runs)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((runs / "arena.json").read_text())["format"] == "flowlit-arena"
