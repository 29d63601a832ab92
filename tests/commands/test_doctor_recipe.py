"""flowlit doctor of a recipe: every stage is looked at, also those whose inputs are not there yet."""

import json
import tempfile

import labelled
import pytest
import tiny
import yaml
from commandline import in_process
from matrix import few

from examples import shapes
from flowlit.commands.doctor import stage
from flowlit.commands.doctor.standin import PAIRS
from flowlit.commands.pipeline.recipe import Recipe


def flow(checkpoint, **others):
    """Return what couple and validate read: a network of a checkpoint, and noise."""
    network = {"class_path": "flowlit.networks.pretrained", "init_args": {"checkpoint": checkpoint}}
    solvers = {"euler2": {"class_path": "flowlit.solvers.Euler", "init_args": {"steps": 2}}}
    data = {"class_path": "flowlit.modules.FlowDataModule", "init_args": {"noise": tiny.noise(20)}}
    model = {"class_path": "flowlit.modules.Teacher", "init_args": {"network": network, "solvers": solvers}}
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    return {"vars": {"root": "x"}, "model": model, "data": data, "trainer": quiet, **others}


@pytest.fixture
def recipe(tmp_path):
    """A recipe of five small stages, of which none has run."""
    root = {"vars": {"root": "x"}}
    last = "${vars.root}/%s/checkpoints/last.ckpt"
    student = {"module": "ReflowStudent", "coupling": tiny.cached("${vars.root}/couplings")}
    validates = {"limit_val_batches": 1.0, "val_check_interval": 5, "check_val_every_n_epoch": None}
    student |= {"callbacks": [tiny.anneal(50), tiny.EMA, tiny.checkpoints()], "steps": 100, **validates}
    stages = {
        "teacher": (
            "fit",
            root | tiny.fit("${vars.root}/teacher", steps=10, **validates),
            last % "teacher",
            [],
        ),
        "couple": (
            "couple",
            flow(last % "teacher", store="${vars.root}/couplings", num=5000, seed=5),
            "couplings/manifest.json",
            ["teacher"],
        ),
        "reflow": ("fit", root | tiny.fit("${vars.root}/reflow", **student), last % "reflow", ["couple"]),
        "evaluate": ("validate", flow(last % "reflow"), "evaluate/metrics.json", ["reflow"]),
        "publish": ("test", flow(last % "reflow"), "publish/metrics.json", ["reflow"]),
    }
    content = {"root": str(tmp_path / "run"), "stages": {}}
    for name, (command, configuration, writes, needs) in stages.items():
        file = tiny.write(tmp_path / f"{name}.yaml", configuration)
        content["stages"][name] = {
            "command": command,
            "config": str(file),
            "writes": writes.removeprefix("${vars.root}/"),
            "needs": needs,
        }
    return tiny.write(tmp_path / "recipe.yaml", content)


@pytest.fixture
def doctor(recipe, tmp_path, monkeypatch):
    """The outcome of the doctor for the recipe with these words; nothing may be written, or left."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()

    def run(*words):
        before = sorted(tmp_path.rglob("*"))
        outcome = in_process("doctor", "-c", recipe, *words)
        assert sorted(tmp_path.rglob("*")) == before
        return outcome

    return run


def row(outcome, name):
    """The cells of a stage in the first table."""
    line = next(line for line in outcome.out.splitlines() if line.startswith(f"{name} "))
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_all_stages_of_a_recipe_are_looked_at_before_any_has_run(doctor, tmp_path):
    outcome = doctor("--for", "a10g,t4")
    assert outcome.code == 0, outcome.out + outcome.err
    assert row(outcome, "teacher")[1] == "trains 10 steps of 8 samples"
    assert row(outcome, "couple")[1] == "makes 5,000 pairs by euler2"
    assert row(outcome, "reflow")[1] == "trains 100 steps of 8 samples"
    assert row(outcome, "evaluate")[1] == "generates 20 images by euler2"
    assert row(outcome, "publish")[1] == "generates 50,000 images by euler2"
    parameters = {row(outcome, name)[2] for name in ("teacher", "couple", "evaluate")}
    assert len(parameters) == 1, "each reads the weights of the one before"
    assert row(outcome, "couple")[3:] and row(outcome, "all")
    assert "estimate for one GPU" in outcome.out and "nothing is wrong" in outcome.out, outcome.out
    first, *table = outcome.out[: outcome.out.index("\n\n")].splitlines()
    assert {len(line) for line in table} == {len(first)}, "columns line up"
    assert str(tmp_path / "temporary") not in outcome.out


@pytest.mark.slow
def test_a_stage_on_several_devices_is_estimated_for_as_many_gpus(doctor):
    outcome = doctor("--for", "a10g", "--teacher.trainer.devices", 4, "--teacher.trainer.strategy", "ddp")
    assert outcome.code == 0, outcome.out + outcome.err
    assert "teacher, 4 GPUs" in outcome.out and "couple, one GPU" in outcome.out


def test_an_option_of_a_stage_reaches_it_and_a_misspelt_one_is_a_problem(doctor):
    width = doctor("--teacher.trainer.max_steps", 20, "--reflow.model.network.widht", 24)
    assert row(width, "teacher")[1] == "trains 20 steps of 8 samples"
    assert row(width, "reflow")[1] == "not looked at: see below"
    assert row(width, "evaluate")[1] == "not looked at: it reads what reflow makes"
    problems = [line for line in width.out.splitlines() if line.startswith("problem")]
    assert width.code == 1 and len(problems) == 1 and "widht" in problems[0], width.out
    assert "doctor: 1 problem; first: reflow: " in width.error


def test_a_reference_of_a_stage_that_leads_nowhere_is_a_problem(doctor):
    outcome = doctor("--reflow.trainer.max_steps", "${model.network.width}")
    assert (
        "${model.network.width} leads nowhere; write ${model.init_args.network.init_args.width}"
        in outcome.out
    )


def test_what_a_recipe_lacks_is_said_once_for_each_stage(doctor, tmp_path):
    images = {"class_path": "flowlit.data.ImageFolder", "init_args": {"root": str(tmp_path / "no_photos")}}
    outcome = doctor("--teacher.data.coupling.images", json.dumps(images))
    assert outcome.code == 1 and "no_photos" in outcome.error
    assert row(outcome, "teacher")[1:] == ["not looked at: see below", "–", "–", "–", "–"]
    assert row(outcome, "couple")[1] == "not looked at: it reads what teacher makes"


@pytest.mark.slow
def test_a_stage_that_is_done_is_read_and_not_looked_at(doctor, recipe):
    opened = Recipe.read(str(recipe))
    opened.run(opened.plans()[0])
    outcome = doctor()
    assert outcome.code == 0, outcome.out + outcome.err
    assert row(outcome, "teacher")[1].startswith("is done, took")
    assert row(outcome, "couple")[1] == "makes 5,000 pairs by euler2"


@pytest.mark.slow
def test_pairs_that_stand_in_for_more_count_as_these(doctor):
    """1,600 passes over 5,000 pairs are no subject of a warning; over the 2,048 there are now they were."""
    assert PAIRS < 5000
    assert "pairs are" not in doctor("--reflow.trainer.max_steps", 1_000_000).out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--for"], "--for has no value"),
        (["--for", "h100", "--for=a100"], "--for is given twice"),
        (["--for", "gtx480"], "no figures of a GPU 'gtx480'"),
        (["--reflo.trainer.max_steps", "3"], "stages are teacher, couple"),
        (["--reflow.trainer.max_steps"], "unknown argument"),
    ],
)
def test_words_that_are_refused(words, expected, doctor):
    assert expected in doctor(*words).error


def test_files_beside_the_stages_are_found(doctor, tmp_path):
    """Images that a person put into the recipe's folder are read from there."""
    labelled.folder(tmp_path / "run" / "photos", {"cat": 12, "dog": 9})
    folder = {"root": "${vars.root}/photos", "channels": 1}
    images = {"class_path": "flowlit.data.ImageFolder", "init_args": folder}
    coupling = {"class_path": "flowlit.couplings.Independent", "init_args": {"images": images}}
    fit = tiny.fit("${vars.root}/teacher", coupling=coupling, steps=10)
    tiny.write(tmp_path / "teacher.yaml", {"vars": {"root": "x"}} | fit)
    outcome = doctor()
    assert row(outcome, "teacher")[1] == "trains 10 steps of 8 samples", outcome.out


@pytest.mark.parametrize("most", few([5, 20_000], 1))
def test_images_are_fitted_so_that_what_reads_them_is_looked_at(most, recipe, doctor, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "MOST_FILES", most)
    shapes.into_folder(tmp_path / "photos", 12)
    zipped = "${vars.root}/images/images.zip"
    fits = {"vars": {"root": "x"}, "source": str(tmp_path / "photos"), "resolution": 8, "into": zipped}
    images = {"class_path": "flowlit.data.ImageZip", "init_args": {"paths": zipped, "channels": 1}}
    coupling = {"class_path": "flowlit.couplings.Independent", "init_args": {"images": images}}
    fit = tiny.fit("${vars.root}/teacher", coupling=coupling, steps=10)
    tiny.write(tmp_path / "teacher.yaml", {"vars": {"root": "x"}} | fit)
    content = yaml.safe_load(recipe.read_text())
    content["stages"]["teacher"]["needs"] = ["images"]
    config = str(tiny.write(tmp_path / "images.yaml", fits))
    first = {"images": {"command": "images", "config": config, "writes": "images/images.zip"}}
    tiny.write(recipe, content | {"stages": first | content["stages"]})
    outcome = doctor()
    assert outcome.code == 0, outcome.out + outcome.err
    fitted = most > 12
    expected = (
        "fits 12 images of 3 classes, 8×8" if fitted else "fits 12 files, which takes a while: not looked at"
    )
    assert row(outcome, "images")[1] == expected
    read = "trains 10 steps of 8 samples" if fitted else "not looked at: it reads what images makes"
    assert row(outcome, "teacher")[1] == read


def test_nothing_stands_in_for_images_that_a_stage_generates(recipe, doctor, tmp_path):
    """A checkpoint stood in the place of their record, and their folder had no images: a false problem."""
    png = "${vars.root}/png"
    writer = {"class_path": "flowlit.callbacks.ImageWriter", "init_args": {"folder": png}}
    predict = flow("${vars.root}/teacher/checkpoints/last.ckpt")
    predict["trainer"]["callbacks"] = [writer]
    images = {"class_path": "flowlit.data.ImageFolder", "init_args": {"root": png, "channels": 1}}
    coupling = {"class_path": "flowlit.couplings.Independent", "init_args": {"images": images}}
    again = {"vars": {"root": "x"}} | tiny.fit("${vars.root}/again", coupling=coupling, steps=10)
    content = yaml.safe_load(recipe.read_text())
    stages = {"teacher": content["stages"]["teacher"]}
    for name, command, configuration, writes, needs in (
        ("generate", "predict", predict, "png/images.json", ["teacher"]),
        ("again", "fit", again, "again/checkpoints/last.ckpt", ["generate"]),
    ):
        config = str(tiny.write(tmp_path / f"{name}.yaml", configuration))
        stages[name] = {"command": command, "config": config, "writes": writes, "needs": needs}
    tiny.write(recipe, content | {"stages": stages})
    outcome = doctor()
    assert outcome.code == 0, outcome.out + outcome.err
    assert row(outcome, "again")[1] == "not looked at: it reads what generate makes"


def test_a_recipe_is_for_doctor_and_pipeline_and_alone(recipe):
    assert "is a recipe: flowlit pipeline" in in_process("fit", "-c", recipe).error
    assert "a recipe is looked at alone" in in_process("doctor", "-c", recipe, "-c", "x.yaml").error
