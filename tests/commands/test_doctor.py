"""flowlit doctor: what it measures is what happens, what is broken it finds, and it leaves nothing behind."""

import dataclasses
import inspect
import json
import os
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import labelled
import pytest
import stores
import tiny
import torch
import yaml
from commandline import in_process
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from matrix import few
from tools import classifier_checkpoint, randomise, tiny_unet, write_checkpoint

from flowlit.callbacks import EMA, Anneal, LastCheckpoint
from flowlit.commands.couple.options import CoupleOptions
from flowlit.commands.doctor import checks, examine
from flowlit.commands.doctor.measured import Measured, Step
from flowlit.commands.doctor.mirror import MOST, asymmetry, bound
from flowlit.commands.doctor.plan import kept, validations_of
from flowlit.commands.doctor.probe import Watch, kept_for_backward, probe_trainer
from flowlit.commands.doctor.report import classes
from flowlit.commands.doctor.subject import Subject
from flowlit.commands.trainer import FlowTrainer
from flowlit.couplings import Cached, Independent, SeededNoise
from flowlit.couplings.origins import FromNoise, Random
from flowlit.couplings.store.encoding import pair_bytes
from flowlit.data import Digits, ImageZip
from flowlit.errors import FlowlitError
from flowlit.modules import FlowDataModule, ReflowStudent, Teacher
from flowlit.networks import EmpiricalFlow, fingerprint
from flowlit.schedules import Linear
from flowlit.solvers import Euler

CIFAR = Path(__file__).parents[3] / "shared" / "datasets" / "cifar10"
VALIDATES = {"limit_val_batches": 1.0, "val_check_interval": 2, "check_val_every_n_epoch": None}


def fill(folder, num=200, origin=None, **facts):
    """Pairs whose images are digits."""
    teacher = stores.Blind(EmpiricalFlow(Digits(limit=50).data[0].float() / 127.5 - 1))
    origin = origin or FromNoise(SeededNoise(tiny.SHAPE, num, seed=5))
    stores.fill(folder, teacher, Euler(4), origin, num=num, shard_size=500)
    manifest = Path(folder) / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **facts}))
    return str(folder)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("pairs") / "store", num=300)


def examined(tmp_path, *words, **arguments):
    """The outcome for a configuration that is healthy but for these arguments; nothing may be written."""
    path = tiny.write(tmp_path / "x.yaml", tiny.fit(tmp_path / "run", **{**VALIDATES, **arguments}))
    before = sorted(tmp_path.rglob("*"))
    outcome = in_process("doctor", "-c", path, *words)
    assert sorted(tmp_path.rglob("*")) == before
    return outcome


def findings(outcome):
    """(level, text) of each."""
    lines = [line.partition("  ") for line in outcome.out.splitlines()]
    return [
        (level.strip(), text.strip())
        for level, _, text in lines
        if level.strip() in ("problem", "warning", "hint")
    ]


# healthy


def test_a_healthy_teacher(tmp_path):
    outcome = examined(tmp_path)
    assert outcome.code == 0, outcome.err
    assert findings(outcome) == [] and outcome.out.endswith("nothing is wrong\n")
    for told in (
        "images of Digits, 1,797 rows",
        "4 steps of 8 samples",
        "NFE 2.0",
        "kept for backward, 8 samples",
        "2 of them",
    ):
        assert told in outcome.out, outcome.out


def test_a_healthy_student(tmp_path, pairs):
    callbacks = [tiny.anneal(50), tiny.EMA, tiny.checkpoints()]
    outcome = examined(
        tmp_path, module="ReflowStudent", coupling=tiny.cached(pairs), callbacks=callbacks, steps=100
    )
    assert outcome.code == 0 and findings(outcome) == [], outcome.out + outcome.err


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """What the shipped digits experiments read: pairs, the network that made them, and a classifier."""
    root = tmp_path_factory.mktemp("digits")
    network = randomise(tiny_unet(), scale=0.02)
    for stage in ("teacher", "reflow"):
        (root / stage / "checkpoints").mkdir(parents=True)
        write_checkpoint(root / stage / "checkpoints/last.ckpt", network, network)
    (root / "features/checkpoints").mkdir(parents=True)
    classifier_checkpoint(root / "features/checkpoints/last.ckpt")
    for seed, name in ((101, "couplings"), (202, "recouplings")):
        teacher = {"sha256": fingerprint(network)}
        fill(root / name, 1500, FromNoise(SeededNoise(tiny.SHAPE, 1500, seed=seed)), teacher=teacher)
    return root


@pytest.mark.parametrize(
    "stage", few(["teacher", "slimflow", "couple", "features", "teacher_edm", "distill", "evaluate"], 3)
)
def test_shipped_experiments_are_healthy(stage, root, tmp_path, cli):
    places = {"couple": ["--store", tmp_path / "store"], "evaluate": []}
    where = places.get(stage, ["--trainer.logger.save_dir", tmp_path])
    outcome = cli("doctor", "-c", f"experiments/{stage}_digits.yaml", "--vars.root", root, *where)
    assert outcome.code == 0 and findings(outcome) == [], outcome.out + outcome.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_pairs_made_on_the_fly_are_timed(root, tmp_path, cli):
    words = ["-c", "experiments/slimflow_digits.yaml", "-c", "experiments/parts/on_the_fly_digits.yaml"]
    outcome = cli("doctor", *words, "--vars.root", root, "--trainer.logger.save_dir", tmp_path)
    assert outcome.code == 0 and findings(outcome) == [], outcome.out + outcome.err
    assert "teacher" in outcome.out and "completing pairs" in outcome.out


def test_a_saved_configuration_serves(tmp_path):
    path = tiny.write(tmp_path / "x.yaml", tiny.fit(tmp_path / "run", **VALIDATES))
    assert in_process("fit", "-c", path).code == 0
    last = tmp_path / "run/checkpoints/last.ckpt"
    before = stat(tmp_path)
    outcome = in_process("doctor", "-c", tmp_path / "run/config.yaml", "--ckpt_path", last)
    assert outcome.code == 0, outcome.err
    assert stat(tmp_path) == before
    assert f"{last}, step 4" in outcome.out
    assert [level for level, _ in findings(outcome)] == ["hint"] and "--resume auto" in outcome.out


def stat(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_without_data_only_generation_is_looked_at(tmp_path):
    outcome = examined(tmp_path, data={"coupling": None})
    assert outcome.code == 0 and findings(outcome) == [], outcome.out + outcome.err
    assert "NFE 2.0" in outcome.out and "optimizer" not in outcome.out


# couplings to be made

MEANT = ("--untrained", "true")


def test_pairs_of_fresh_weights_are_a_problem_as_for_couple(tmp_path):
    words = ("--store", tmp_path / "store", "--num", 20, "--shard_size", 20)
    outcome = examined(tmp_path, *words)
    only(outcome, "problem", "UNet has fresh weights")
    assert outcome.code == 1 and "--ckpt_path FILE, or --untrained true to mean it" in outcome.out
    for others in (MEANT, ("--origin", "random")):
        assert "fresh weights" not in examined(tmp_path, *words, *others).out


def test_couplings_that_are_to_be_made(tmp_path):
    path = tiny.write(
        tmp_path / "x.yaml",
        tiny.fit(tmp_path / "run", callbacks=[], enable_checkpointing=False, logger=False),
    )
    store = tmp_path / "store"
    words = [
        "-c",
        path,
        "--store",
        store,
        "--num",
        400,
        "--shard_size",
        100,
        "--x0",
        "float32",
        "--x1",
        "uint8",
        "--untrained",
        "true",
    ]
    outcome = in_process("doctor", *words)
    assert outcome.code == 0 and findings(outcome) == [], outcome.out + outcome.err
    assert "400 of 400 pairs are to be made" in outcome.out and "400 pairs by euler2" in outcome.out
    assert "optimizer" not in outcome.out and not store.exists()
    assert in_process("couple", *words).code == 0
    told = pair_bytes((1, 8, 8), "float32", "uint8")
    for file in store.glob("*.safetensors"):
        assert 100 * told <= file.stat().st_size < 100 * told + 1000, "a header, too"
    words[words.index(400)] = 1000
    assert "600 of 1,000 pairs are to be made" in in_process("doctor", *words).out
    only(in_process("doctor", *words, "--x1", "float16"), "problem", "already holds other pairs (x1:")
    only(
        in_process("doctor", *words, "--seed_everything", 8), "problem", "already holds other pairs (teacher:"
    )
    words[words.index(1000)] = 300
    only(in_process("doctor", *words), "problem", "--num 300 would lose some")


def test_doctor_has_the_options_of_couple_which_are_those_of_the_dataclass(cli):
    fields = {field.name: field for field in dataclasses.fields(CoupleOptions)}
    given = inspect.signature(FlowTrainer.doctor).parameters
    assert {name: given[name].default for name in fields} == dict.fromkeys(fields)
    assert set(given) - set(fields) == {"self", "model", "datamodule", "ckpt_path", "weights_only"}
    printed = yaml.safe_load(cli("couple", "-c", "experiments/couple_digits.yaml", "--print_config").out)
    assert set(fields) <= set(printed)
    shown = cli("couple", "--help").out
    for name, field in fields.items():
        default = "null" if field.default is None else str(field.default)
        assert re.search(rf"--{name} .*?default:\s+{default}[,)]", shown, re.S), name


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--labels", "none.txt"], "labels none.txt cannot be read"),
        (["--origin", "data", "--data.noise.shape", "[1, 4, 4]"], "takes images of shape (1, 8, 8)"),
        (["--data.noise", "null"], "couple needs the shape of the noise"),
        (["--num", 0], "expected a whole number > 0"),
    ],
)
def test_an_order_that_cannot_be_met(words, told, tmp_path):
    outcome = examined(tmp_path, "--store", tmp_path / "store", *MEANT, *words)
    assert told in outcome.error


def test_pairs_with_the_noise_of_validation(tmp_path):
    outcome = examined(tmp_path, "--store", tmp_path / "store", "--seed", 0, *MEANT)
    only(outcome, "warning", "have the same seed 0")


def test_pairs_that_have_no_room(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "flowlit.commands.doctor.checks.resources.shutil.disk_usage",
        lambda path: SimpleNamespace(free=1_000_000),
    )
    only(
        examined(tmp_path, "--store", tmp_path / "store", *MEANT),
        "problem",
        "10,000 pairs need 2.6 MB, and 1.0 MB are free in",
    )


# broken, each in one way


LONG = {"class_path": "flowlit.callbacks.EMA", "init_args": {"decay": 0.999999, "warmup": False}}
CHECKPOINTED = [tiny.EMA, tiny.checkpoints()]
BROKEN = {
    "no couplings": ("problem", "no couplings in", {"coupling": tiny.cached("nowhere")}),
    "no average": ("warning", "no average of the weights", {"callbacks": [tiny.checkpoints()]}),
    "long average": (
        "warning",
        "100% of the average are still the weights",
        {
            "callbacks": [
                {"class_path": "flowlit.callbacks.EMA", "init_args": {"decay": 0.999999, "warmup": False}},
                tiny.checkpoints(),
            ]
        },
    ),
    "short average": (
        "warning",
        "averages over the last 10 of 100,000 steps",
        {"steps": 100_000, "val_check_interval": 1000},
    ),
    "not annealed": ("warning", "β stays at 0", {"module": "ReflowStudent"}),
    "annealed too slowly": (
        "warning",
        "β is still 0.905 at the last of 20 steps",
        {"module": "ReflowStudent", "steps": 20, "callbacks": [tiny.anneal(200), *CHECKPOINTED]},
    ),
    "annealed late": (
        "warning",
        "β reaches 0 in the last tenth",
        {"module": "ReflowStudent", "steps": 20, "callbacks": [tiny.anneal(19), *CHECKPOINTED]},
    ),
    "flipped digits": (
        "warning",
        "flip: true, but these images are not symmetric",
        {
            "coupling": {
                "class_path": "flowlit.couplings.Independent",
                "init_args": {**tiny.digits()["init_args"], "flip": True},
            }
        },
    ),
    "no guidance": ("warning", "without flow guidance", {"module": "OneStepStudent"}),
    "no checkpoint": (
        "warning",
        "no checkpoint is kept",
        {"callbacks": [tiny.EMA], "enable_checkpointing": False},
    ),
    "validation beyond the run": (
        "warning",
        "val_check_interval 100 is beyond the run",
        {"val_check_interval": 100},
    ),
    "no validation": ("hint", "limit_val_batches: 0", {"limit_val_batches": 0}),
    "rounded weights": (
        "warning",
        "rounds the weights after every step",
        {"precision": "bf16-true", "callbacks": [tiny.checkpoints()]},
    ),
    "rounded average": ("problem", "would round the average", {"precision": "bf16-true"}),
    "devices that cannot share": ("problem", "must divide by 3 devices", {"devices": 3, "strategy": "ddp"}),
    "a batch too large": ("problem", "1797 rows cannot fill one batch", {"data": {"batch_size": 2000}}),
    "another shape": (
        "problem",
        "takes images of shape (1, 8, 8)",
        {"data": {"noise": tiny.noise(shape=[1, 4, 4])}},
    ),
    "no noise": ("problem", "validation needs noise", {"data": {"noise": None}}),
    "an annealed attribute that is not there": (
        "problem",
        "Anneal: Teacher.objective has no attribute",
        {"callbacks": [tiny.anneal(2), *CHECKPOINTED]},
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_found(name, tmp_path):
    level, told, arguments = BROKEN[name]
    outcome = examined(tmp_path, **arguments)
    assert [found for found, text in findings(outcome) if told in text] == [level], outcome.out + outcome.err
    problems = [found for found, _ in findings(outcome)].count("problem")
    assert outcome.code == (1 if problems else 0)
    assert not problems or f"doctor: {problems} problem" in outcome.error


def test_clipping_that_the_optimizer_cannot_do_is_found_by_the_step(tmp_path):
    fused = ["--model.optimizer", "torch.optim.Adam", "--model.optimizer.fused", "true"]
    outcome = examined(tmp_path, *fused, gradient_clip_val=1.0, precision="bf16-mixed")
    assert outcome.code == 1 and "a training step failed: RuntimeError" in outcome.error


def only(outcome, level, told):
    """There is this finding, and no other."""
    assert [found for found, _ in findings(outcome)] == [level], outcome.out + outcome.err
    assert told in outcome.out, outcome.out


def student(tmp_path, pairs, **arguments):
    callbacks = [tiny.anneal(50), *CHECKPOINTED]
    settings = {
        "module": "ReflowStudent",
        "coupling": tiny.cached(pairs),
        "callbacks": callbacks,
        "steps": 100,
    }
    return examined(tmp_path, **{**settings, **arguments})


def test_pairs_put_together_at_random(tmp_path):
    store = fill(tmp_path / "store", 300, Random(Digits(labels=False), seed=5))
    only(student(tmp_path, store), "warning", "put noise and images together at random")


def test_few_pairs(tmp_path):
    only(student(tmp_path, fill(tmp_path / "store", num=79)), "warning", "79 pairs are 9.88 batches")


def test_noise_of_validation_that_was_trained_on(tmp_path, pairs):
    only(student(tmp_path, pairs, data={"noise": tiny.noise(seed=5)}), "warning", "have the same seed 5")


def test_images_that_could_be_flipped(tmp_path):
    store = stores.fill(
        tmp_path / "store", origin=FromNoise(SeededNoise(tiny.SHAPE, 600, seed=5)), num=600, shard_size=600
    )
    only(student(tmp_path, store), "hint", "flips would double them")


@pytest.mark.slow
def test_a_guide_that_did_not_make_the_pairs(tmp_path):
    networks = [randomise(tiny_unet(), seed) for seed in (0, 1)]
    files = [write_checkpoint(tmp_path / f"{i}.ckpt", network, network) for i, network in enumerate(networks)]
    store = fill(tmp_path / "store", teacher={"sha256": fingerprint(networks[0])})

    def distilled(student, guide):
        read = [
            {"class_path": "flowlit.networks.pretrained", "init_args": {"checkpoint": files[i]}}
            for i in (student, guide)
        ]
        content = tiny.fit(tmp_path / "run", "OneStepStudent", read[0], tiny.cached(store), **VALIDATES)
        guided = {"class_path": "flowlit.objectives.FlowGuided", "init_args": {"guide": read[1]}}
        content["model"]["init_args"]["objective"] = guided
        return in_process("doctor", "-c", tiny.write(tmp_path / "x.yaml", content))

    assert findings(distilled(0, 0)) == []
    only(distilled(0, 1), "warning", "the guide is another network")
    only(distilled(1, 0), "warning", "the student begins from another network")


def test_no_seed(tmp_path, monkeypatch):
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    only(examined(tmp_path, "--seed_everything", "false"), "warning", "other first weights each time")


def fid(tmp_path, **arguments):
    features = {"checkpoint": classifier_checkpoint(tmp_path / "classifier.ckpt"), "name": "tiny"}
    extractor = {"class_path": "flowlit.metrics.ClassifierFeatures", "init_args": features}
    digits = {"class_path": "flowlit.data.Digits"}
    callback = {"features": extractor, "reference": digits, "cache": str(tmp_path / "cache"), **arguments}
    return {"callbacks": [*CHECKPOINTED, {"class_path": "flowlit.callbacks.FID", "init_args": callback}]}


def test_a_distance_of_few_images(tmp_path):
    words = "8 generated images for 8 features: their Fréchet distance is far too large"
    only(examined(tmp_path, **fid(tmp_path)), "warning", words)


def test_features_of_which_none_are_there_are_a_warning_as_in_the_run(tmp_path):
    """A problem refused what validate measures without a distance."""
    absent = {"class_path": "flowlit.metrics.OwnFeatures", "init_args": {"checkpoint": "/nowhere/last.ckpt"}}
    choice = {"class_path": "flowlit.metrics.FirstAvailable", "init_args": {"extractors": [absent]}}
    report = examined(tmp_path, **fid(tmp_path, features=choice))
    only(report, "warning", "no distance to real images will be measured")
    assert findings(examined(tmp_path, **fid(tmp_path), data={"noise": tiny.noise(9)})) == []


def test_measures_in_a_fit(tmp_path):
    measures = [{"class_path": "flowlit.metrics.KID", "init_args": {"subset_size": 4}}]
    outcome = examined(tmp_path, **fid(tmp_path, measures=measures), data={"noise": tiny.noise(16)})
    only(outcome, "problem", "in a fit there is the Fréchet distance only")


def test_a_missing_reference(tmp_path):
    outcome = examined(
        tmp_path, **fid(tmp_path, reference=str(tmp_path / "no.npz")), data={"noise": tiny.noise(16)}
    )
    only(outcome, "problem", "no.npz")


def test_too_little_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("flowlit.commands.doctor.measure.free_memory", lambda device: 1_000_000)
    only(examined(tmp_path), "problem", "1.0 MB are free; --data.device_batch_size 4")


def test_too_little_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "flowlit.commands.doctor.checks.resources.shutil.disk_usage",
        lambda path: SimpleNamespace(free=1_000_000),
    )
    only(examined(tmp_path), "problem", "1.0 MB are free in")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "run").touch()
    only(examined(tmp_path), "problem", "cannot be written")


def test_every_problem_is_listed(tmp_path):
    (tmp_path / "run").touch()
    other = write_checkpoint(tmp_path / "other.ckpt", tiny_unet(width=16))
    outcome = examined(tmp_path, "--ckpt_path", other, coupling=tiny.cached("nowhere"), data={"noise": None})
    told = [text for level, text in findings(outcome) if level == "problem"]
    for part in (
        "no couplings in nowhere",
        "another architecture",
        "cannot be written",
        "validation needs noise",
    ):
        assert sum(part in text for text in told) == 1, outcome.out
    assert (
        outcome.code == 1
        and f"doctor: {len(told)} problems; first: the checkpoint is of another architecture" in outcome.error
    )


def test_seldom_saved(tmp_path):
    trainer = tiny.trainer(tmp_path, 10_000, [LastCheckpoint(2000)], enable_checkpointing=True)
    subject = Subject(trainer, None, FlowDataModule(), steps=10_000, validations=0, share=8)
    for seconds, found in ((1.0, False), (2.0, True)):  # 2,000 steps: 33 minutes, and 67
        subject.measured.step = Step(8, seconds, 0.0)
        assert any(checks.run.seldom_saved(subject)) == found
    subject.trainer.callbacks = [LastCheckpoint(1000)]
    subject.measured.step = Step(8, 100.0, 0.0)
    assert not any(checks.run.seldom_saved(subject)), "a tenth of a long run may be lost"


def test_mixed_pairs_are_looked_at_part_by_part(tmp_path, pairs):
    other = fill(tmp_path / "random", 300, Random(Digits(labels=False), seed=6))
    init = {"parts": [tiny.cached(pairs), tiny.cached(other)], "shares": [0.5, 0.5]}
    mixed = {"class_path": "flowlit.couplings.Mixed", "init_args": init}
    outcome = student(tmp_path, pairs, coupling=mixed, data={"noise": tiny.noise(seed=5)})
    assert [level for level, _ in findings(outcome)] == ["warning", "warning"], outcome.out + outcome.err
    assert "at random" in outcome.out and "the same seed 5" in outcome.out


# what is measured


def module(kind=Teacher, width=8):
    torch.manual_seed(0)
    return kind(tiny_unet(width=width), solvers={"euler2": Euler(2)})


def data(**arguments):
    return FlowDataModule(
        Independent(Digits(labels=False)), 8, SeededNoise(tiny.SHAPE, 8), seed=3, **arguments
    )


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """What is known of a subject at the end, when the last check looks at it."""

    def run(trainer=None, model=None, few=None):
        found = []
        monkeypatch.setattr(checks, "CHECKS", [lambda subject: found.append(subject) or ()])
        trainer = trainer or tiny.trainer(tmp_path, callbacks=[EMA(0.9)], limit_val_batches=1)
        examine(trainer, model or module(), few or data())
        return found[0]

    return run


def test_memory_is_what_the_tensors_hold(measured):
    found, network = measured().measured, tiny_unet()
    parameters, tensors = sum(p.numel() for p in network.parameters()), len(list(network.parameters()))
    buffers = sum(buffer.nbytes for buffer in network.buffers())
    assert found.gradients == 4 * parameters
    assert found.weights == 2 * (4 * parameters + buffers), "network and average"
    assert found.optimizer == 8 * parameters + 4 * tensors, "Adam: two moments, and a count for each tensor"


def test_a_checkpoint_is_as_large_as_told(measured, tmp_path):
    told = measured(model=module(width=32)).measured.checkpoint
    trainer = tiny.trainer(tmp_path, 4, [EMA(0.9)])
    trainer.fit(module(width=32), datamodule=data())
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    assert told < os.path.getsize(tmp_path / "x.ckpt") < 1.05 * told, "names take some, too"


def test_storages_are_counted_once_and_not_those_that_are_known():
    x = torch.randn(10, 7, requires_grad=True)
    with kept_for_backward(set()) as found:
        (x * x).exp().sum()
    assert [storage.nbytes() for storage in found.values()] == [280, 280], (
        "x once, though both factors keep it, and what exp returns"
    )
    with kept_for_backward({x.untyped_storage().data_ptr()}) as found:
        (x * x).exp().sum()
    assert [storage.nbytes() for storage in found.values()] == [280]


def test_what_is_kept_for_backward_grows_with_the_batch(measured):
    line = measured().measured.activations
    with kept_for_backward(set()) as found:
        network = tiny_unet().train()
        known = {p.untyped_storage().data_ptr() for p in network.parameters()}
        network(torch.randn(32, *tiny.SHAPE), torch.rand(32)).square().mean()
    alone = sum(storage.nbytes() for pointer, storage in found.items() if pointer not in known)
    assert round(line.slope * 32 + line.intercept) == alone


class Count(Callback):
    validations = 0

    def on_validation_end(self, trainer, pl_module):
        self.validations += 1


PLANS = [
    {"val_check_interval": 3, "check_val_every_n_epoch": None},
    {},
    {"val_check_interval": 0.5},
    {"steps": -1, "max_epochs": 2, "val_check_interval": 2},
    {"val_check_interval": 5, "check_val_every_n_epoch": None, "accumulate_grad_batches": 2},
    {"val_check_interval": 100, "check_val_every_n_epoch": None},
    {"check_val_every_n_epoch": 2},
    {"steps": -1, "max_epochs": 3},
    {"steps": -1, "max_epochs": 4, "check_val_every_n_epoch": 2},
    {"limit_val_batches": 0},
]


@pytest.mark.parametrize("settings", few(PLANS, 4), ids=[str(plan) for plan in PLANS])
def test_the_plan_is_what_happens(settings, measured, tmp_path):
    settings = {"steps": 10, "limit_val_batches": 1, **settings}
    count, every = Count(), ModelCheckpoint(tmp_path / "every", save_top_k=-1, every_n_train_steps=2)
    callbacks = [count, every, LastCheckpoint(3)]
    trainer = tiny.trainer(tmp_path, settings.pop("steps"), callbacks, enable_checkpointing=True, **settings)
    few = FlowDataModule(Independent(Digits(limit=40, labels=False)), 8, SeededNoise(tiny.SHAPE, 8))
    subject = measured(trainer, module(), few)
    told = (subject.steps, subject.validations, checks.resources.files_kept(subject))
    trainer.fit(module(), datamodule=few)
    files = [
        path for folder in (tmp_path / "every", tmp_path / "checkpoints") for path in folder.glob("*.ckpt")
    ]
    assert told == (trainer.global_step, count.validations, len(files))


def test_a_run_without_an_end_has_no_plan(tmp_path):
    trainer = tiny.trainer(tmp_path, -1, max_epochs=-1)
    assert examine(trainer, module(), data()).problems == []


def test_the_best_are_as_many_as_there_are():
    assert kept(ModelCheckpoint(monitor="fid", save_top_k=3), 100, 2) == 2
    assert kept(ModelCheckpoint(monitor="fid", save_top_k=3, save_last=True), 100, 9) == 4


def test_a_clock_decides(tmp_path):
    trainer = tiny.trainer(
        tmp_path, 10, val_check_interval="00:00:01:00", check_val_every_n_epoch=None, limit_val_batches=1
    )
    assert validations_of(trainer, 10) is None


# images in a mirror


def test_digits_are_not_symmetric():
    images = Digits().data[0][:MOST].float()
    assert asymmetry(images) > 3 * bound(64)


def test_digits_of_which_half_are_mirrored_are():
    generator = torch.Generator().manual_seed(0)
    images = Digits().data[0][:MOST].float()
    for _ in range(20):
        coin = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
        assert asymmetry(torch.where(coin, images.flip(-1), images)) < bound(64, 1e-3)


def test_a_constant_difference_is_infinitely_unlikely():
    images = torch.zeros(300, 1, 1, 2)
    assert asymmetry(images) == 0
    images[:, :, :, 1] = 1
    assert asymmetry(images) == float("inf")


@pytest.mark.skipif(not CIFAR.is_dir(), reason=f"{CIFAR} is not here")
@pytest.mark.parametrize("part", few(sorted(CIFAR.glob("*.zip")), 1), ids=lambda path: path.stem)
def test_photographs_pass(part):
    images = checks.data.some_images(ImageZip(str(part)))
    assert images.shape == (MOST, 3, 32, 32)
    assert asymmetry(images) < bound(images[0].numel())


# nothing is left behind


def test_a_fit_afterwards_has_the_same_bits(tmp_path, pairs):
    def run(before):
        callbacks = [Anneal(Linear(2)), EMA(0.9)]
        trainer = tiny.trainer(
            tmp_path, 4, callbacks, limit_val_batches=1, val_check_interval=2, check_val_every_n_epoch=None
        )
        model = module(ReflowStudent)
        cached = FlowDataModule(Cached(pairs), 8, SeededNoise(tiny.SHAPE, 8), device_batch_size=4, seed=3)
        if before:
            trainer.doctor(model, cached)
        state = torch.get_rng_state()
        trainer.fit(model, datamodule=cached)
        return model.state_dict(), state, trainer.accumulate_grad_batches

    (first, state, accumulated), (second, again, same) = run(False), run(True)
    assert tiny.same(first, second) and torch.equal(state, again) and accumulated == same == 2


def test_what_is_examined_stays_as_it_was(tmp_path):
    trainer, model, given = (
        tiny.trainer(tmp_path, callbacks=[EMA(0.9)], limit_val_batches=1),
        module(),
        data(device_batch_size=2),
    )
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state, attributes = torch.get_rng_state(), dict(vars(given))
    examine(trainer, model, given)
    assert tiny.same(before, model.state_dict()) and torch.equal(state, torch.get_rng_state())
    assert vars(given) == attributes and trainer.accumulate_grad_batches == 1 and trainer.global_step == 0
    assert model._trainer is None and list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_files_of_averages_are_not_written(tmp_path):
    profile = {"class_path": "flowlit.schedules.averages.PowerLaw"}
    average = {"class_path": "flowlit.callbacks.EMA", "init_args": {"profile": profile, "snapshots": 1}}
    outcome = examined(tmp_path, callbacks=[average, tiny.checkpoints()])
    assert outcome.code == 0 and findings(outcome) == [], outcome.out + outcome.err


# the command


def test_pickled_code_is_never_run(tmp_path):
    assert "plain data only" in examined(tmp_path, "--weights_only", "false").error


def test_other_data_is_refused(tmp_path):
    with pytest.raises(FlowlitError, match="FlowDataModule"):
        examine(tiny.trainer(tmp_path), module(), None)


def test_wrong_keys_are_found_by_the_parser(tmp_path):
    assert examined(tmp_path, "--model.learning_rate", 3).code == 2


def test_the_probe_computes_in_the_precision_of_the_run():
    """On a CPU it trained in float32 under bf16, and told twice the memory."""
    run = FlowTrainer(accelerator="cpu", precision="bf16-mixed", logger=False, enable_checkpointing=False)
    with probe_trainer(run, Watch(Measured())).precision_plugin.train_step_context():
        assert torch.is_autocast_enabled("cpu")


def labelled_run(root, **classes):
    """The arguments of a run on a folder with so many images of each class."""
    folder = {"root": str(labelled.folder(root, classes)), "channels": 1, "labels": True}
    images = {"class_path": "flowlit.data.ImageFolder", "init_args": folder}
    coupling = {"class_path": "flowlit.couplings.Independent", "init_args": {"images": images}}
    noise = tiny.noise(num_classes=len(classes))
    return {"coupling": coupling, "network": tiny.unet(num_classes=len(classes)), "data": {"noise": noise}}


def test_classes_are_listed_with_their_names_and_counts(tmp_path):
    outcome = examined(tmp_path, **labelled_run(tmp_path / "photos", cat=5, dog=12, emu=8))
    table = outcome.out[outcome.out.index("class  name  rows") :].splitlines()[:5]
    assert table[2:] == ["0       cat     5", "1       dog    12", "2       emu     8"]
    assert outcome.code == 0, outcome.out


def test_a_class_without_images_is_a_problem(tmp_path):
    outcome = examined(tmp_path, **labelled_run(tmp_path / "photos", cat=12, dog=0, emu=8))
    told = "class 1 (dog) of 3 does not occur in images of ImageFolder"
    assert [level for level, text in findings(outcome) if told in text] == ["problem"], outcome.out
    assert "1       dog     0" in outcome.out and outcome.code == 1


def test_long_lists_of_classes_are_cut(tmp_path):
    zipped = labelled.archive(tmp_path / "x.zip", [[f"{i}.png", i % 100] for i in range(150)])
    images = ImageZip(str(zipped), labels=True, channels=1)
    rows = classes(SimpleNamespace(pairs=images))
    assert len(rows) == 21 and rows[1] == ["0", "–", "2"] and rows[-1] == ["…", "81 more", "112"]


def test_classes_of_a_giant_number_are_counted_at_once():
    counts = Counter({0: 3, 10**9: 2})
    rows = classes(SimpleNamespace(pairs=SimpleNamespace(label_counts=lambda: counts)))
    assert rows[1] == ["0", "–", "3"] and rows[-1] == ["…", "999,999,982 more", "2"]
