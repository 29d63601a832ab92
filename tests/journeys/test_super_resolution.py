"""Super-resolution from end to end: a teacher is trained, generates, makes pairs, and says what it is for."""

import json
import re

import pytest
import tiny
import torch
import yaml
from arena import labelled_images, random_features
from commandline import REPOSITORY, in_process

import flowlit
from flowlit.commands.pipeline import recipe as pipeline
from flowlit.commands.pipeline.recipe import Recipe
from flowlit.couplings.store.reader import StoredPairs
from flowlit.data import Degradation
from flowlit.data.degradations import image_condition, seeded
from flowlit.data.provenance import trained_on
from flowlit.errors import FlowlitError
from flowlit.networks import ADM, ConcatenatedImage, pretrained
from flowlit.networks.checkpoints.spec import build
from flowlit.paths import NoisedImage

pytestmark = [pytest.mark.journey, pytest.mark.slow]

RECIPE = "experiments/recipes/super_resolution.yaml"
EXPERIMENTS = sorted((REPOSITORY / "experiments/super_resolution").glob("*.yaml"))
COMMANDS = {"images": "images", "couple": "couple", "evaluate": "validate"}
NETWORK = {"class_path": "flowlit.networks.ConcatenatedImage", "init_args": {"network": tiny.unet()}}
STEPS = [
    {"class_path": "flowlit.data.AveragePool", "init_args": {"scale": 4}},
    {"class_path": "flowlit.data.GaussianNoise", "init_args": {"std": 0.05}},
]
LAW = {
    "degradation": {"class_path": "flowlit.data.Chain", "init_args": {"steps": STEPS}},
    "start": {"class_path": "flowlit.couplings.NoisedImage", "init_args": {"sigma": 0.2}},
}


def images(part):
    return {"class_path": "flowlit.data.Digits", "init_args": {"part": part, "labels": False}}


def configuration(root, **law):
    law = LAW | law
    coupling = {
        "class_path": "flowlit.couplings.SuperResolution",
        "init_args": {"images": images("train"), **law},
    }
    noise = {
        "class_path": "flowlit.couplings.DegradedImages",
        "init_args": {"images": images("test"), "num": 6, **law},
    }
    samples = {"class_path": "flowlit.callbacks.Samples", "init_args": {"num": 4}}
    callbacks = [tiny.EMA, tiny.checkpoints(), samples]
    trainer = {"limit_val_batches": 1.0, "val_check_interval": 4, "check_val_every_n_epoch": None}
    return tiny.fit(
        root, network=NETWORK, coupling=coupling, data={"noise": noise}, callbacks=callbacks, **trainer
    )


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    root = tmp_path_factory.mktemp("teacher")
    outcome = in_process("fit", "-c", tiny.write(root / "fit.yaml", configuration(root)))
    assert outcome.code == 0, outcome.err
    assert list(root.rglob("*.png")), "samples"
    return root


def test_a_checkpoint_says_what_it_is_for(teacher):
    network = pretrained(str(teacher / "checkpoints/last.ckpt"))
    assert network.reads == {"image"} and network.shape == (1, 8, 8)
    facts = trained_on(network)
    assert facts["name"] == "Digits" and facts["fresh_noise"] is False
    task = facts["super_resolution"]
    assert task["scale"] == 4
    degradation = build(task["degradation"], Degradation)
    start = build(task["start"], NoisedImage)
    low = degradation(torch.rand(2, 1, 8, 8), seeded([0, 1]))
    generator = flowlit.load(teacher)
    c = image_condition(low, degradation, generator.codec)
    x0 = start(c, torch.randn(c.shape))
    assert network(x0, torch.zeros(2), {"image": c}).shape == (2, 1, 8, 8)
    assert trained_on(generator.network)["super_resolution"] == task


def test_noise_alone_is_refused_with_what_helps(teacher):
    with pytest.raises(FlowlitError, match="image"):
        flowlit.load(teacher).sample(2, seed=0)


def test_pairs_keep_the_condition_and_the_task(teacher, tmp_path):
    content = configuration(tmp_path)
    content["trainer"] = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    content["data"]["init_args"].pop("coupling")
    size = {"num": 10, "seed": 5, "shard_size": 5, "batch_size": 5, "store": str(tmp_path / "store")}
    content |= size | {"ckpt_path": str(teacher / "checkpoints/last.ckpt")}
    outcome = in_process("couple", "-c", tiny.write(tmp_path / "couple.yaml", content))
    assert outcome.code == 0, outcome.err
    pairs = StoredPairs([tmp_path / "store"])
    assert pairs.trained_on["super_resolution"]["scale"] == 4
    rows = pairs.__getitems__(range(10))
    assert rows.cond["image"].shape == (10, 1, 8, 8)
    student = tiny.fit(tmp_path, "OneStepStudent", network=NETWORK, coupling=tiny.cached(tmp_path / "store"))
    student["data"]["init_args"].pop("noise")
    student["model"]["init_args"]["objective"] = {"class_path": "flowlit.objectives.Distillation"}
    outcome = in_process("fit", "-c", tiny.write(tmp_path / "student.yaml", student))
    assert outcome.code == 0, outcome.err
    network = pretrained(str(tmp_path / "checkpoints/last.ckpt"))
    assert trained_on(network)["super_resolution"]["scale"] == 4


def test_a_scale_that_does_not_divide_ends_before_training(tmp_path):
    law = {"degradation": {"class_path": "flowlit.data.Bicubic", "init_args": {"scale": 3}}}
    outcome = in_process("fit", "-c", tiny.write(tmp_path / "fit.yaml", configuration(tmp_path, **law)))
    assert outcome.code != 0 and "no multiple of the degradation's scale 3" in outcome.err


def test_a_network_without_the_condition_ends_before_training(tmp_path):
    content = configuration(tmp_path)
    content["model"]["init_args"]["network"] = tiny.unet()
    outcome = in_process("fit", "-c", tiny.write(tmp_path / "fit.yaml", content))
    assert outcome.code != 0 and "cond has image" in outcome.err


STUDENTS = [
    ("TrajectoryDistillation", {"class_path": "flowlit.solvers.OneStep", "init_args": {"t": 1.0}}, {}),
    ("ScaleDistillation", {"class_path": "flowlit.solvers.Euler"}, {"guide_steps": 1}),
]


@pytest.mark.parametrize(("objective", "solver", "law"), STUDENTS, ids=["one step", "larger factor"])
def test_a_student_of_the_teacher_is_trained(teacher, tmp_path, objective, solver, law):
    path = {"checkpoint": str(teacher / "checkpoints/last.ckpt")}
    guide = {"class_path": "flowlit.networks.pretrained", "init_args": path}
    content = configuration(tmp_path)
    content["data"]["init_args"]["coupling"]["init_args"] |= law
    content["model"]["class_path"] = "flowlit.modules.FlowModule"
    trained = {"class_path": f"flowlit.objectives.{objective}", "init_args": {"guide": guide}}
    content["model"]["init_args"] |= {"network": guide, "objective": trained, "solvers": {"one": solver}}
    outcome = in_process("fit", "-c", tiny.write(tmp_path / "fit.yaml", content))
    assert outcome.code == 0, outcome.err
    network = pretrained(str(tmp_path / "checkpoints/last.ckpt"))
    assert network.reads == {"image"} and trained_on(network)["super_resolution"]["scale"] == 4


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_is_parsed(path):
    outcome = in_process(COMMANDS.get(path.stem, "fit"), "-c", path, "--print_config")
    assert outcome.code == 0, outcome.err


def header(path):
    return "\n".join(line for line in path.read_text().splitlines() if line.startswith("#"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_headers_say_what_one_must_know(path):
    words = re.findall(r"^#\s+(run|needs|writes|costs|expect)\s+\S", header(path), re.M)
    assert {"run", "needs", "writes", "costs", "expect"} <= set(words)
    assert str(path.relative_to(REPOSITORY)) in header(path)
    for named in re.findall(r"experiments/[\w/]+\.yaml", header(path)):
        assert (REPOSITORY / named).is_file(), named


def test_the_experiments_are_packaged():
    assert "experiments/super_resolution/*.yaml" in (REPOSITORY / "setup.cfg").read_text()


@pytest.mark.timeout(900)
def test_one_recipe_runs_all_stages_into_the_curve(tmp_path, monkeypatch):
    """A teacher, its student and a slim one, with their distances, PSNR, and the knob's picture."""
    monkeypatch.chdir(REPOSITORY)
    children = []

    def run(command, env):
        children.append(in_process(*command[3:]))
        return children[-1].code

    monkeypatch.setattr(pipeline, "run_child", run)
    labelled_images(tmp_path / "train.zip")
    layer = random_features(tmp_path, "experiments/super_resolution/evaluate.yaml")
    shipped = Recipe.read(RECIPE)
    evaluations = {each.name: each.configs for each in shipped.stages if each.command == "validate"}
    stages = {name: {"config": [*configs, layer]} for name, configs in evaluations.items()}
    content = {"include": RECIPE, "root": str(tmp_path / "sr"), "stages": stages}
    small = {"width": 8, "steps": 2, "anneal_steps": 1, "pairs": 32, "num": 8, "paired": 4, "batch_size": 8}
    content["vars"] = small | {"images": str(tmp_path / "train.zip")}
    outcome = in_process("pipeline", "-c", tiny.write(tmp_path / "recipe.yaml", content))
    assert outcome.code == 0, children[-1].error
    assert "PSNR RGB" in outcome.out and "slim student, t = 1" in outcome.out
    rows = json.loads((tmp_path / "sr/summary.json").read_text())
    assert len(rows) == 8 and all(row["paired"] and row["frechet"] > 0 for row in rows)
    assert (tmp_path / "sr/evaluate_slim_student/fidelity_realism.png").is_file()
    assert not (tmp_path / "sr/evaluate_teacher/fidelity_realism.png").exists()
    for name in ("student", "slim_student"):
        saved = yaml.safe_load((tmp_path / "sr" / name / "config.yaml").read_text())
        noise = saved["data"]["init_args"]["noise"]["init_args"]
        coupling = saved["data"]["init_args"]["coupling"]["init_args"]
        assert noise["degradation"] == coupling["degradation"] and noise["start"] == coupling["start"]


LAYERS = {
    "adm_256": (["teacher"], 93_563_907),
    "adm_256_imagenet": (["teacher"], 552_814_083),
    "bicubic": (["teacher", "student"], None),
    "bicubic_start": (["couple", "reflow", "evaluate"], None),
    "papers": (["teacher", "student"], None),
    "resshift": (["teacher"], None),
    "resshift_student": (["student"], None),
    "resshift_start": (["evaluate"], None),
}
WIDTHS = {"adm_256": 128, "adm_256_imagenet": 256}


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_of_the_papers_sizes_are_parsed(layer):
    files, parameters = LAYERS[layer]
    folder = REPOSITORY / "experiments/super_resolution"
    words = ["--vars.resolution", 256, "--vars.width", WIDTHS[layer]] if parameters else []
    for file in files:
        over = ("-c", folder / f"{file}.yaml", "-c", folder / f"layers/{layer}.yaml", *words)
        outcome = in_process(COMMANDS.get(file, "fit"), *over, "--print_config")
        assert outcome.code == 0, outcome.err
        if layer.startswith("bicubic"):
            noise = yaml.safe_load(outcome.out)["data"]["init_args"]["noise"]["init_args"]
            assert noise["degradation"]["class_path"] == "flowlit.data.Bicubic"
        if parameters:
            content = yaml.safe_load((folder / f"layers/{layer}.yaml").read_text())
            values = {"${vars.resolution}": 256, "${vars.width}": WIDTHS[layer]}
            spec = content["model"]["init_args"]["network"]["init_args"]["network"]["init_args"]
            with torch.device("meta"):
                network = ConcatenatedImage(ADM(**{name: values.get(str(v), v) for name, v in spec.items()}))
            assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.timeout(900)
@pytest.mark.parametrize("recipe", ["super_resolution_resshift", "super_resolution_yonos"])
def test_other_ways_are_recipes_of_the_same_stages(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(pipeline, "run_child", lambda command, env: in_process(*command[3:]).code)
    labelled_images(tmp_path / "train.zip")
    layer = random_features(tmp_path, "experiments/super_resolution/evaluate.yaml")
    path = f"experiments/recipes/{recipe}.yaml"
    shipped = Recipe.read(path)
    configs = {each.name: each.configs for each in shipped.stages if each.command == "validate"}
    small = {"width": 8, "steps": 2, "num": 8, "paired": 4, "batch_size": 8}
    content = {
        "include": path,
        "root": str(tmp_path / "sr"),
        "stages": {name: {"config": [*each, layer]} for name, each in configs.items()},
        "vars": small | {"images": str(tmp_path / "train.zip")},
    }
    outcome = in_process("pipeline", "-c", tiny.write(tmp_path / "recipe.yaml", content))
    assert outcome.code == 0, outcome.error
    rows = json.loads((tmp_path / "sr/summary.json").read_text())
    assert len(rows) == len(shipped.table) and all(row["paired"] and row["frechet"] > 0 for row in rows)


PAPERS = ["super_resolution_div2k", "super_resolution_ffhq", "super_resolution_imagenet"]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("recipe", PAPERS)
def test_the_papers_recipes_run_with_small_numbers(recipe, tmp_path, monkeypatch):
    """Their layers fit together: networks, degradations and starts of all stages."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(pipeline, "run_child", lambda command, env: in_process(*command[3:]).code)
    labelled_images(tmp_path / "train.zip")
    layer = random_features(tmp_path, "experiments/super_resolution/evaluate.yaml")
    path = f"experiments/recipes/{recipe}.yaml"
    metrics = {"trainer.callbacks.3.metrics": [{"class_path": "flowlit.metrics.PSNR"}]}
    options = {
        "teacher": {"vars.width": 8, "vars.steps": 2},
        "couple": {"vars.pairs": 16},
        "student": {"vars.steps": 2},
        "reflow": {"vars.width": 8, "vars.steps": 2, "vars.anneal_steps": 1},
        "slim_student": {"vars.steps": 2},
    }
    stages = {name: {"options": {**more, "vars.batch_size": 4}} for name, more in options.items()}
    del stages["couple"]["options"]["vars.batch_size"]
    for each in Recipe.read(path).stages:
        if each.command == "validate":
            stages[each.name] = {
                "config": [*each.configs, layer],
                "options": metrics | {"vars.num": 8, "vars.paired": 4},
            }
    content = {"include": path, "root": str(tmp_path / "sr"), "stages": stages}
    content["vars"] = {"images": str(tmp_path / "train.zip"), "resolution": 32}
    outcome = in_process("pipeline", "-c", tiny.write(tmp_path / "recipe.yaml", content))
    assert outcome.code == 0, outcome.error
    rows = json.loads((tmp_path / "sr/summary.json").read_text())
    assert len(rows) == 8 and all(row["paired"] and row["frechet"] > 0 for row in rows)
    task = trained_on(pretrained(str(tmp_path / "sr/slim_student/checkpoints/last.ckpt")))["super_resolution"]
    assert task["degradation"]["class_path"] == "flowlit.data.Bicubic" and task["scale"] == 4
    sigma = yaml.safe_load((REPOSITORY / path).read_text())["vars"]["sigma"]
    assert task["start"]["init_args"]["sigma"] == sigma
