"""What happens around training: averages, schedules, gradients, distances, pictures, reports."""

import json

import numpy as np
import pytest
import tiny
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from flowlit.callbacks import (
    EMA,
    FID,
    Anneal,
    Gradients,
    ImageWriter,
    LastCheckpoint,
    Progress,
    Report,
    Samples,
    Straightness,
    Throughput,
)
from flowlit.callbacks.training.gradients import Entries
from flowlit.couplings import Independent, SeededNoise
from flowlit.data import Digits
from flowlit.errors import FlowlitError
from flowlit.metrics import ClassifierFeatures, Inception
from flowlit.metrics.fidelity import tag
from flowlit.metrics.geometry import straightness
from flowlit.modules import Classifier, FlowDataModule, FlowModule, ReflowStudent, Teacher
from flowlit.networks import SmallClassifier
from flowlit.objectives import RectifiedFlow
from flowlit.schedules import Linear
from flowlit.schedules.averages import ema_decay
from flowlit.solvers import Euler, Heun


def data(num=8, **arguments):
    return FlowDataModule(
        Independent(Digits(limit=64, labels=False)), 8, SeededNoise(tiny.SHAPE, num), **arguments
    )


def fit(tmp_path, module, callbacks, steps=4, ckpt_path=None, **arguments):
    trainer = tiny.trainer(tmp_path, steps, callbacks, limit_val_batches=0, **arguments)
    trainer.fit(module, data(), ckpt_path=ckpt_path)
    return trainer


class Notes(Callback):
    """Keeps a value after every batch."""

    def __init__(self, look):
        self.look, self.seen = look, []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.seen.append(self.look(trainer, pl_module))


def teacher(lr=0.1):
    torch.manual_seed(0)
    return Teacher(tiny.Affine(), optimizer=lambda p: torch.optim.SGD(p, lr=lr))


# EMA


def test_warm_up_is_the_rule_of_the_reference_code():
    assert [ema_decay(0.5, n) for n in (1, 2, 7, 8, 9, 100)] == [2 / 11, 3 / 12, 8 / 17, 0.5, 0.5, 0.5]
    assert ema_decay(0.999, 1, warmup=False) == 0.999


@pytest.mark.parametrize("warmup", [True, False])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_average_is_its_closed_form(tmp_path, warmup, accumulate):
    module, decay, steps = teacher(), 0.4, 6
    start = module.network.drift.detach().double().clone()
    notes = Notes(lambda trainer, m: (trainer.global_step, m.network.drift.detach().double().clone()))
    averaging = EMA(decay, warmup)
    trainer = tiny.trainer(
        tmp_path, steps, [averaging, notes], limit_val_batches=0, accumulate_grad_batches=accumulate
    )
    trainer.fit(
        module, FlowDataModule(Independent(Digits(limit=64, labels=False)), 12, SeededNoise(tiny.SHAPE, 8))
    )
    weights = dict(notes.seen)  # step -> weights; later batches of the same step overwrite with the same
    expected = start
    for n in range(1, steps + 1):
        d = min(decay, (1 + n) / (10 + n)) if warmup else decay
        expected = d * expected + (1 - d) * weights[n]
    assert len(notes.seen) == steps * accumulate
    torch.testing.assert_close(module.ema.drift.double(), expected, rtol=1e-5, atol=1e-6)
    assert module.averages.updates() == steps
    assert (module.ema.drift - module.network.drift).abs().max() > 1e-3


def test_buffers_are_copied(tmp_path):
    module = teacher()
    fit(tmp_path, module, [EMA(0.9)])
    assert int(module.ema.calls) == int(module.network.calls) == 4


# Anneal


def student():
    return ReflowStudent(tiny.Affine())


def test_beta_follows_the_schedule_by_optimizer_step(tmp_path):
    module, notes = student(), Notes(lambda trainer, m: m.objective.beta)
    trainer = fit(tmp_path, module, [Anneal(Linear(4)), notes], steps=6)
    assert notes.seen == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    assert trainer.callback_metrics["anneal/beta"] == 0.0


def test_beta_counts_optimizer_steps_not_batches(tmp_path):
    notes = Notes(lambda trainer, m: m.objective.beta)
    fit(tmp_path, student(), [Anneal(Linear(4)), notes], steps=3, accumulate_grad_batches=2)
    assert notes.seen == [1.0, 1.0, 0.75, 0.75, 0.5, 0.5]


def test_a_resumed_run_anneals_on(tmp_path):
    trainer = fit(tmp_path, student(), [Anneal(Linear(10))], steps=3)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    notes = Notes(lambda trainer, m: m.objective.beta)
    fit(tmp_path, student(), [Anneal(Linear(10)), notes], steps=5, ckpt_path=tmp_path / "half.ckpt")
    assert notes.seen == pytest.approx([0.7, 0.6])


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("objective.betta", r"ReflowStudent\.objective has no attribute 'betta'.*it has .*beta, .*distance"),
        ("objektive.beta", r"ReflowStudent has no attribute 'objektive'.*it has .*network, objective"),
    ],
)
def test_annealing_what_does_not_exist_names_what_does(tmp_path, attribute, message):
    with pytest.raises(FlowlitError, match=message):
        fit(tmp_path, student(), [Anneal(Linear(4), attribute)])


def test_any_number_can_be_annealed(tmp_path):
    module = student()
    module.objective.other = 5.0
    fit(tmp_path, module, [Anneal(Linear(4)), Anneal(Linear(4, 0, 8), "objective.other")], steps=3)
    assert module.objective.other == 4.0 and module.objective.beta == 0.5


# ----------------------------------------------------------------------------------------------------------
# Gradients


@pytest.mark.parametrize("joined", [False, True])
def test_repair_counts_and_replaces(joined):
    bad = [torch.tensor([1.0, float("nan"), float("inf")]), torch.tensor([-float("inf"), 2.0])]
    entries = Entries(bad, joined)
    assert int(entries.count_bad()) == 3
    entries.repair(limit=10)
    assert [g.tolist() for g in bad] == [[1, 0, 10], [-10, 2]]


@pytest.mark.parametrize("joined", [False, True])
def test_gradients_of_any_order_and_shape_are_repaired_where_they_lie(joined):
    shapes = [(3, 4, 3, 3), (4, 3, 1, 1), (), (0, 5), (1, 1, 3, 1), (7, 2)]
    plain = [torch.where((x := torch.randn(shape)) > 1, torch.nan, x) for shape in shapes]
    bad = [g.to(memory_format=torch.channels_last) if g.dim() == 4 else g.clone() for g in plain]
    bad += [plain[-1].t().clone().t(), plain[-1].double()]  # columns first, and another type
    strides = [g.stride() for g in bad]
    entries = Entries(bad, joined)
    assert entries.count_bad() == sum(int(g.isnan().sum()) for g in bad)
    entries.repair()
    for mended, before in zip(bad, [*plain, plain[-1], plain[-1].double()], strict=True):
        assert torch.equal(mended, before.nan_to_num(0.0))
    assert [g.stride() for g in bad] == strides


def test_gradients_at_the_ends_of_float32_are_finite():
    ends = [torch.tensor([torch.finfo(torch.float32).max, -torch.finfo(torch.float32).max, 1e-45, 0.0])]
    assert Entries(ends).count_bad() == 0


class Poison(Callback):
    """Puts NaN into one gradient of one step."""

    def __init__(self, step):
        self.step = step

    def on_after_backward(self, trainer, pl_module):
        if trainer.global_step == self.step:
            pl_module.network.drift.grad[0, 0, :2] = float("nan")


def test_a_bad_gradient_is_repaired_before_clipping_and_counted(tmp_path):
    class Norms(Callback):
        seen = []

        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            gradients = [p.grad for p in pl_module.network.parameters() if p.grad is not None]
            if gradients:
                self.seen.append(float(torch.nn.utils.get_total_norm(gradients)))

    module, clip, norms = teacher(), 0.01, Norms()
    trainer = fit(tmp_path, module, [Poison(step=1), Gradients(clip), norms], steps=4)
    assert all(torch.isfinite(p).all() for p in module.network.parameters())
    assert trainer.callback_metrics["gradients/bad_entries"] == 2
    assert trainer.callback_metrics["gradients/norm"] > clip
    assert norms.seen and norms.seen == pytest.approx(
        [clip] * len(norms.seen), rel=1e-3
    )  # also in the poisoned step


def test_without_repair_the_run_would_be_lost(tmp_path):
    module = teacher()
    fit(tmp_path, module, [Poison(step=1)], steps=4)
    assert module.network.drift.isnan().any()


def test_small_gradients_are_left_alone(tmp_path):
    plain, careful = teacher(), teacher()
    fit(tmp_path, plain, [])
    fit(tmp_path, careful, [Gradients(clip=1e6)])
    assert tiny.same(plain.state_dict(), careful.state_dict())


def test_the_count_survives_a_checkpoint(tmp_path):
    trainer = fit(tmp_path, teacher(), [Poison(step=0), Gradients()], steps=2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    again = fit(tmp_path, teacher(), [Gradients()], steps=3, ckpt_path=tmp_path / "half.ckpt")
    assert again.callback_metrics["gradients/bad_entries"] == 2


# -----------------------------------------------------------------------------------------------------------
# Progress


@pytest.mark.parametrize("half", [3, 5, 7])
def test_bug_the_bar_of_a_resumed_run_did_not_know_how_many_steps_there_are(tmp_path, half):
    """Within an epoch (of 5 steps here), and where one begins."""
    save = Notes(
        lambda trainer, _: trainer.global_step == half and trainer.save_checkpoint(tmp_path / "half.ckpt")
    )
    fit(tmp_path, teacher(), [save], steps=9)
    seen = Notes(
        lambda trainer, _: (lambda bar: (bar.initial, bar.n, bar.total))(
            trainer.progress_bar_callback.train_progress_bar
        )
    )
    fit(
        tmp_path,
        teacher(),
        [Progress(), seen],
        steps=9,
        ckpt_path=tmp_path / "half.ckpt",
        enable_progress_bar=True,
    )
    assert seen.seen[0] == (half, half + 1, 9) and seen.seen[-1][1:] == (9, 9)


def test_a_file_has_lines_instead_of_a_bar(tmp_path, capsys, caplog):
    """A line where the trainer logs, at most 20 of a run, the last one of the last step."""
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        fit(tmp_path, teacher(), [Progress()], steps=50, enable_progress_bar=True, log_every_n_steps=2)
    lines = [message for message in caplog.messages if message.startswith("flowlit: step ")]
    assert len(lines) == 20 and lines[-1].startswith("flowlit: step 50 of 50, ") and "train/loss" in lines[0]
    assert "\r" not in capsys.readouterr().out


def test_a_terminal_has_a_bar_and_no_lines(tmp_path, capsys, caplog, monkeypatch):
    monkeypatch.setattr("flowlit.callbacks.training.progress.is_terminal", lambda stream: True)
    fit(tmp_path, teacher(), [Progress()], steps=5, enable_progress_bar=True)
    assert not [message for message in caplog.messages if message.startswith("flowlit: step ")]
    assert "Training: 100%" in capsys.readouterr().out


# -----------------------------------------------------------------------------------------------------
# LastCheckpoint


@pytest.mark.parametrize("steps", [2, 5, 6])
def test_the_last_checkpoint_is_that_of_the_last_step(tmp_path, steps):
    for _ in range(2):  # a second run in the same folder replaces it
        fit(tmp_path, teacher(), [LastCheckpoint(3)], steps=steps, enable_checkpointing=True)
    (path,) = tmp_path.glob("**/last.ckpt")
    assert torch.load(path, weights_only=True)["global_step"] == steps
    before = torch.load(path.with_name("previous.ckpt"), weights_only=True)["global_step"]
    assert before == max(1, (steps - 1) // 3 * 3)


def test_a_second_run_replaces_the_last_checkpoint(tmp_path):
    for steps in (6, 3):
        fit(tmp_path, teacher(), [LastCheckpoint(3)], steps=steps, enable_checkpointing=True)
    (path,) = tmp_path.glob("**/last.ckpt")
    assert torch.load(path, weights_only=True)["global_step"] == 3


# FID, NFE
# and company


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """A checkpoint of an untrained classifier: its random features will do."""
    path = tmp_path_factory.mktemp("features") / "last.ckpt"
    torch.manual_seed(0)
    module = Classifier(SmallClassifier(dim=8))
    trainer = tiny.trainer(path.parent, 1, limit_val_batches=0)
    trainer.fit(module, FlowDataModule(Independent(Digits(limit=32)), 8))
    trainer.save_checkpoint(path)
    return str(path)


def flow(solvers=None):
    torch.manual_seed(3)
    module = FlowModule(
        tiny.Affine(), RectifiedFlow(), solvers=solvers or {"heun": Heun(2), "euler": Euler(1)}
    )
    torch.nn.init.normal_(module.network.drift)
    return module


def validate(tmp_path, callbacks, num=50, batch=16, module=None, **arguments):
    trainer = tiny.trainer(tmp_path, 1, callbacks, **arguments)
    trainer.validate(module or flow(), data(num, noise_batch_size=batch), verbose=False)
    return trainer


def generated(num, solver):
    noise = SeededNoise(tiny.SHAPE, num)
    module = flow()
    with torch.no_grad():
        x1 = solver(module.network, torch.stack([noise[i].x0 for i in range(num)])).x1
    return module.codec.decode(x1)


def distance(checkpoint, fake, real):
    """The Fréchet distance the slow, obvious way: NumPy and SciPy."""
    from scipy.linalg import sqrtm

    extract = ClassifierFeatures(checkpoint, "tiny")
    a, b = (extract(x).detach().double().numpy() for x in (fake, real))
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    cross = np.trace(sqrtm(ca @ cb).real)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca) + np.trace(cb) - 2 * cross)


REAL = Digits(limit=300)


def test_only_inception_features_make_an_fid(features):
    assert tag(Inception().name) == "fid"
    assert tag(ClassifierFeatures(features, "digits").name) == "frechet_digits"
    with pytest.raises(FlowlitError, match="Inception's"):
        ClassifierFeatures(features, "inception")


def test_the_distance_is_that_of_all_images_in_one_go(tmp_path, features):
    fid = FID(ClassifierFeatures(features, "tiny"), REAL, cache=str(tmp_path))
    metrics = validate(tmp_path, [fid]).callback_metrics
    real = torch.stack([REAL[i]["x1"] for i in range(len(REAL))])
    for name, solver, nfe in (("heun", Heun(2), 4), ("euler", Euler(1), 1)):
        expected = distance(features, generated(50, solver), real)
        assert float(metrics[f"frechet_tiny/{name}"]) == pytest.approx(expected, rel=1e-4)
        assert metrics[f"nfe/{name}"] == nfe
    assert not any(name.startswith("fid") for name in metrics)


def test_the_reference_is_computed_once(tmp_path, features):
    class Once(Digits):
        reads = 0

        def __getitem__(self, index):
            Once.reads += 1
            return super().__getitem__(index)

    for _ in range(2):
        validate(tmp_path, [FID(ClassifierFeatures(features, "tiny"), Once(limit=40), cache=str(tmp_path))])
    assert Once.reads == 40
    assert len(list(tmp_path.glob("tiny-*.npz"))) == 1


def test_diverged_images_are_not_measured(tmp_path, features):
    module = flow()
    torch.nn.init.constant_(module.network.drift, float("nan"))
    with pytest.raises(FlowlitError, match="heun: 16 of 16 generated images are not finite"):
        validate(
            tmp_path, [FID(ClassifierFeatures(features, "tiny"), REAL, cache=str(tmp_path))], module=module
        )


def test_straightness_is_that_of_the_first_noise(tmp_path):
    metrics = validate(tmp_path, [Straightness(steps=20, num=10)]).callback_metrics
    noise = SeededNoise(tiny.SHAPE, 10)
    with torch.no_grad():
        expected = straightness(
            flow().network, torch.stack([noise[i].x0 for i in range(10)]), steps=20
        ).mean()
    assert expected > 0
    assert float(metrics["straightness/sum"]) == pytest.approx(float(expected), rel=1e-5)
    assert float(metrics["straightness/per_dimension"]) == pytest.approx(float(expected) / 64, rel=1e-5)


def test_samples_are_the_first_images_of_each_solver(tmp_path):
    logger = TensorBoardLogger(str(tmp_path), name="", version="")
    validate(tmp_path, [Samples(num=6, columns=3)], num=10, batch=4, logger=logger)
    logger.experiment.flush()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert sorted(events.Tags()["images"]) == ["samples/euler", "samples/heun"]
    for name, solver in (("heun", Heun(2)), ("euler", Euler(1))):
        grid = np.array(Image.open(tmp_path / "samples" / f"{name}.png"))
        assert grid.shape == (2 * 65 + 1, 3 * 65 + 1, 3)
        images = generated(6, solver)[:, 0].numpy()
        for i, image in enumerate(images):
            y, x = 1 + 65 * (i // 3), 1 + 65 * (i % 3)
            assert np.array_equal(grid[y : y + 64, x : x + 64, 0], image.repeat(8, 0).repeat(8, 1))
        shown = events.Images(f"samples/{name}")[0]
        assert (shown.width, shown.height) == (grid.shape[1], grid.shape[0])


def test_the_report_holds_every_number_and_who_made_it(tmp_path):
    logger = TensorBoardLogger(str(tmp_path), name="", version="")
    callbacks = [Straightness(5, 4), Throughput(8, 1), Report()]
    metrics = validate(tmp_path, callbacks, logger=logger).callback_metrics
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert report["metrics"] == {name: pytest.approx(float(value)) for name, value in metrics.items()}
    assert report["params"] == 9 + 1 + 64
    assert report["weights"] == "raw"
    assert report["solvers"]["heun"] == {
        "class_path": "flowlit.solvers.Heun",
        "init_args": {"steps": 2, "rho": 1.0, "r": 1.0},
    }
    assert report["metrics"]["images_per_s/euler"] > 0


def test_no_solver_is_reported_or_timed_while_training(tmp_path):
    logger = TensorBoardLogger(str(tmp_path), name="", version="")
    trainer = tiny.trainer(tmp_path, 2, [Throughput(8, 1), Report()], logger=logger, limit_val_batches=1)
    trainer.fit(flow(), data())
    assert not (tmp_path / "metrics.json").exists()
    assert [name for name in trainer.callback_metrics if name.startswith("images_per_s")] == [
        "images_per_s/train"
    ]


def test_throughput_counts_the_cost_of_a_solver(tmp_path):
    slow = {"long": Euler(60), "short": Euler(1)}
    metrics = validate(tmp_path, [Throughput(16, 3)], module=flow(slow)).callback_metrics
    assert metrics["images_per_s/short"] > 5 * metrics["images_per_s/long"] > 0


def test_images_are_numbered_by_their_noise(tmp_path):
    trainer = tiny.trainer(tmp_path, 1, [ImageWriter(str(tmp_path / "png"))])
    trainer.predict(flow(), data(5, noise_batch_size=2), return_predictions=False)
    names = sorted(path.name for path in (tmp_path / "png").iterdir())
    assert names == [*(f"{i:08d}.png" for i in range(5)), "images.csv", "images.json"]
    for i, image in enumerate(generated(5, Heun(2))):
        assert np.array_equal(np.array(Image.open(tmp_path / "png" / f"{i:08d}.png")), image[0].numpy())
