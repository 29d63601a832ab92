"""Super-resolution from end to end: a teacher is trained, generates, makes pairs, and says what it is for."""

import re
from pathlib import Path

import pytest
import tiny
import torch
import yaml
from commandline import REPOSITORY, in_process

import flowlit
from flowlit.couplings.store.reader import StoredPairs
from flowlit.data import Degradation
from flowlit.data.degradations import image_condition, seeded
from flowlit.data.provenance import trained_on
from flowlit.errors import FlowlitError
from flowlit.networks import pretrained
from flowlit.networks.checkpoints.spec import build
from flowlit.paths import NoisedImage

pytestmark = [pytest.mark.journey, pytest.mark.slow]

EXPERIMENTS = sorted((REPOSITORY / "experiments/super_resolution").glob("*.yaml"))
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
    outcome = in_process("fit", "-c", path, "--print_config")
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


def test_the_experiments_survive_short_runs(tmp_path, monkeypatch):
    pixels = torch.randint(256, (40, 3, 32, 32), dtype=torch.uint8)
    monkeypatch.setattr("flowlit.data.CIFAR10._read", lambda self: (pixels, torch.zeros(40)))
    monkeypatch.chdir(REPOSITORY)
    small = {"width": 8, "blocks": 1, "multipliers": "[1, 1]"}
    teacher = [f"--model.network.network.{key}={value}" for key, value in small.items()]
    words = ["--vars.steps=2", "--trainer.val_check_interval=2", "--data.batch_size=8", "--data.noise.num=8"]
    for name, more in (("teacher", teacher), ("student", [])):
        path = Path(f"experiments/super_resolution/{name}.yaml")
        outcome = in_process("fit", "-c", path, *words, *more, "--vars.root", tmp_path)
        assert outcome.code == 0, outcome.err
        saved = yaml.safe_load((tmp_path / name / "config.yaml").read_text())
        noise = saved["data"]["init_args"]["noise"]["init_args"]
        coupling = saved["data"]["init_args"]["coupling"]["init_args"]
        assert noise["degradation"] == coupling["degradation"] and noise["start"] == coupling["start"]
