"""What TensorBoard shows of a run: charts by subject, the table of runs, histograms, and the speed of
training.
"""

import csv
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
import torch
from forks import apart
from lightning.pytorch.callbacks import Callback, LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.custom_scalar.custom_scalars_plugin import CustomScalarsPlugin
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.plugins.scalar.scalars_plugin import ScalarsPlugin

from flowlit.callbacks import (
    EMA,
    Anneal,
    Dashboard,
    Gradients,
    LossOverTime,
    NearestNeighbours,
    Straightness,
    Throughput,
)
from flowlit.callbacks.evaluation.dashboard import LAYOUT, histogram, is_outcome
from flowlit.callbacks.training.throughput import PARTS
from flowlit.couplings import Independent, SeededNoise
from flowlit.data import Digits
from flowlit.modules import FlowDataModule, FlowModule
from flowlit.objectives import AnnealedReflow, RectifiedFlow
from flowlit.schedules import Linear
from flowlit.solvers import RK45, Euler


def data(num=16, batch=16, batch_size=8):
    noises = SeededNoise(tiny.SHAPE, num, seed=11)
    return FlowDataModule(
        Independent(Digits(limit=64, labels=False)), batch_size, noises, noise_batch_size=batch, seed=5
    )


def flow(solvers=None, objective=None):
    torch.manual_seed(3)
    solvers = solvers or {"rk45": RK45(1e-2, 1e-2), "euler": Euler(1)}
    module = FlowModule(
        tiny.Affine(), objective or RectifiedFlow(), lambda p: torch.optim.SGD(p, 0.1), solvers=solvers
    )
    torch.nn.init.normal_(module.network.drift)
    return module


def board(folder):
    return TensorBoardLogger(str(folder), name="", version="")


def fit(folder, callbacks, module=None, steps=2, **arguments):
    settings = {
        "logger": board(folder),
        "limit_val_batches": 1,
        "check_val_every_n_epoch": None,
        "val_check_interval": steps,
    }
    trainer = tiny.trainer(folder, steps, callbacks, **{**settings, **arguments})
    trainer.fit(module or flow(), data())
    return trainer


def validate(folder, callbacks, module=None, command="validate", num=16, batch=16, **arguments):
    trainer = tiny.trainer(folder, 1, callbacks, **{"logger": board(folder), **arguments})
    getattr(trainer, command)(module or flow(), data(num, batch), verbose=False)
    return trainer


def read(folder):
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0, "tensors": 0}).Reload()


# layout


def plugin(folder):
    """TensorBoard's own reader of custom scalars, on a folder with one run called "run"."""
    multiplexer = EventMultiplexer()
    multiplexer.AddRun(str(folder), "run")
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(folder))
    context = {"data_provider": provider, "multiplexer": multiplexer, "logdir": str(folder)}
    numbers = {"scalars": ScalarsPlugin(TBContext(**context))}
    return CustomScalarsPlugin(TBContext(plugin_name_to_instance=numbers, **context))


def everything():
    """All callbacks that log numbers, but for the Fréchet distance."""
    return [
        Anneal(Linear(4)),
        EMA(),
        Gradients(),
        LossOverTime(2),
        LearningRateMonitor(),
        Straightness(4, 8),
        NearestNeighbours(Digits(limit=20), 4, 2),
        Throughput(),
        Dashboard(),
    ]


def test_the_layout_is_what_tensorboard_reads(tmp_path):
    for _ in range(2):  # a resumed run writes it again into the same folder
        fit(tmp_path, [Dashboard(), Throughput(), EMA()])
    layout = json.loads(plugin(tmp_path).layout_impl(RequestContext(), "experiment"))
    found = {
        c["title"]: {chart["title"]: chart["multiline"]["tag"] for chart in c["chart"]}
        for c in layout["category"]
    }
    assert found == {
        "Training": {"loss and its parts": ["train/"], "decay of the average": ["anneal/ema_decay"]},
        "Speed": {
            "images a second": ["images_per_s/"],
            "seconds a batch": ["step_seconds/(all|coupling)$"],
            "where they go": ["step_seconds/(data|forward|backward|optimizer|ema|rest)$"],
            "fraction of the device's peak": ["fraction_of_peak/"],
        },
    }, "a chart that stays empty, or none where there is something to show"
    assert [len(c["chart"]) for c in layout["category"]] == [2, 4], "a chart is there twice"


def test_every_number_of_a_run_has_exactly_one_chart(tmp_path):
    fit(tmp_path, everything(), flow(objective=AnnealedReflow()), steps=4)
    reader, shown = plugin(tmp_path), {}
    for charts in LAYOUT.values():
        for title, (_, *tags) in charts.items():
            for tag in tags:
                answer = reader.scalars_impl(RequestContext(), "run", tag, "experiment")
                assert answer["regex_valid"]
                for name in answer["tag_to_events"]:
                    shown.setdefault(name, []).append(title)
    tags = set(read(tmp_path).Tags()["scalars"])
    assert tags - {"epoch"} == set(shown)
    assert all(len(titles) == 1 for titles in shown.values()), shown
    expected = {
        "train/loss",
        "loss_over_t/0.0-0.5",
        "anneal/beta",
        "anneal/ema_decay",
        "gradients/norm",
        "lr-SGD",
    }
    expected |= {
        "straightness/sum",
        "memorisation/rk45",
        "images_per_s/train",
        "curvature/mean",
        "chord_error/rms",
    }
    expected |= {f"step_seconds/{part}" for part in ("all", "coupling", *PARTS)}
    assert expected <= tags


@pytest.mark.parametrize(
    ("tag", "chart"),
    [
        ("fid/euler1", "Fréchet distance"),
        ("frechet_digits/rk45", "Fréchet distance"),
        ("kid/euler1", "kernel distance"),
        ("kernel_distance_digits/euler1", "kernel distance"),
        ("inception_score/euler1", "classifier score"),
        ("classifier_score_digits/euler1", "classifier score"),
        ("precision/euler1", "precision and recall"),
        ("precision_digits/euler1", "precision and recall"),
        ("recall_digits/euler1", "precision and recall"),
        ("nfe/rk45", "network evaluations"),
        ("loss_over_t_two_step/0.2-0.3", "loss over t"),
        ("images_per_s/euler1", "images a second"),
        ("step_seconds/coupling", "seconds a batch"),
        ("step_seconds/backward", "where they go"),
        ("fraction_of_peak/train", "fraction of the device's peak"),
    ],
)
def test_numbers_of_other_callbacks_have_exactly_one_chart(tag, chart):
    charts = {title: tags for subjects in LAYOUT.values() for title, (_, *tags) in subjects.items()}
    assert [title for title, tags in charts.items() if any(re.match(pattern, tag) for pattern in tags)] == [
        chart
    ]


def test_a_run_that_is_refused_is_not_laid_out(tmp_path):
    with pytest.raises(Exception, match="draws no training times"):
        fit(tmp_path, [Dashboard(), LossOverTime()], flow(objective=Timeless()))
    assert read(tmp_path).Tags()["tensors"] == []


class Timeless(RectifiedFlow):
    """Draws times, but does not say so."""

    def __init__(self):
        super().__init__()
        self.times = None


# -------------------------------------------------------------------------------------------------------
# table of runs


def table(folder):
    """Hyper-parameters and names of metrics in the table of runs, the latest."""
    events = read(folder)
    contents = {}
    for tag in ("_hparams_/session_start_info", "_hparams_/experiment"):
        contents[tag] = plugin_data_pb2.HParamsPluginData.FromString(
            events.SummaryMetadata(tag).plugin_data.content
        )
    given = contents["_hparams_/session_start_info"].session_start_info.hparams
    params = {name: getattr(value, value.WhichOneof("kind")) for name, value in given.items()}
    return params, {info.name.tag for info in contents["_hparams_/experiment"].experiment.metric_infos}


def with_hparams():
    module = flow()
    config = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "nesterov": False, "weight": None}}
    module.save_hyperparameters({"optimizer": config, "network": {"multipliers": [1, 2]}, "_class_path": "x"})
    return module


def test_the_end_of_a_fit_is_a_row_of_settings_and_outcomes(tmp_path, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    callbacks = [
        Gradients(),
        LossOverTime(),
        LearningRateMonitor(),
        Straightness(4, 8),
        Throughput(),
        Dashboard(),
    ]
    trainer = fit(tmp_path, callbacks, with_hparams(), steps=3)
    params, metrics = table(tmp_path)
    assert params == {
        "stage": tmp_path.name,
        "command": "fit",
        "parameters": sum(p.numel() for p in trainer.lightning_module.network.parameters()),
        "learning_rate": 0.1,
        "optimizer.class_path": "torch.optim.SGD",
        "optimizer.init_args.lr": 0.1,
        "optimizer.init_args.nesterov": 0,
        "network.multipliers.0": 1,
        "network.multipliers.1": 2,
        "data.batch_size": 8,
        "data.seed": 5,
        "data.noise.seed": 11,
        "data.noise.num": 16,
        "trainer.max_steps": 3,
        "seed_everything": "7",
    }
    geometry = {"straightness/sum", "straightness/per_dimension", "curvature/mean", "chord_error/rms"}
    assert metrics == geometry | {"transport_cost/sum", "transport_cost/per_dimension", "train/loss"}
    events = read(tmp_path)
    assert "hp_metric" not in events.Tags()["scalars"]
    last = events.Scalars("train/loss")[-1]
    assert last.value == pytest.approx(float(trainer.callback_metrics["train/loss"]))
    assert max(event.step for event in events.Scalars("train/loss")) == 3
    assert (
        min(event.step for event in events.Scalars("straightness/sum")) > 0
    )  # the end is not written at the beginning


@pytest.mark.parametrize("command", ["validate", "test"])
def test_evaluations_have_a_row_too(tmp_path, command):
    module, datamodule = with_hparams(), data()
    if hasattr(datamodule, "test_num"):
        datamodule.test_num = 16
    trainer = tiny.trainer(tmp_path, 1, [Straightness(4, 8), Dashboard()], logger=board(tmp_path))
    getattr(trainer, command)(module, datamodule, verbose=False)
    params, metrics = table(tmp_path)
    assert params["data.batch_size"] == 8 and params["optimizer.init_args.lr"] == 0.1
    assert "straightness/sum" in metrics and "train/loss" not in metrics
    assert "hp_metric" not in read(tmp_path).Tags()["scalars"]


def test_without_it_lightning_makes_a_metric_up(tmp_path):
    """The reason for what ``Dashboard.setup`` does; it can go when this fails."""
    fit(tmp_path, [], with_hparams())
    assert read(tmp_path).Scalars("hp_metric")[0].value == -1


def test_the_course_of_a_training_is_no_outcome():
    course = [
        "train/two_step",
        "anneal/beta",
        "gradients/norm",
        "lr-Adam",
        "loss_over_t/0.0-0.1",
        "images_per_s/train",
    ]
    course += ["step_seconds/ema", "fraction_of_peak/train"]
    outcome = ["train/loss", "fid/rk45", "val/accuracy", "my/own", "images_per_s/rk45", "memorisation/rk45"]
    assert [name for name in course + outcome if is_outcome(name)] == outcome


@pytest.mark.parametrize("logger", [False, "csv", "both"])
def test_other_loggers_and_none_are_left_alone(tmp_path, logger):
    csv = CSVLogger(str(tmp_path), name="csv", version="")
    loggers = {False: False, "csv": csv, "both": [csv, board(tmp_path / "board")]}[logger]
    callbacks = [c for c in everything() if loggers or not isinstance(c, LearningRateMonitor)]
    fit(tmp_path, callbacks, flow(objective=AnnealedReflow()), logger=loggers)
    assert bool(list(tmp_path.rglob("events*"))) == (logger == "both")
    if logger:
        lines = (tmp_path / "csv" / "metrics.csv").read_text()
        assert "straightness/sum" in lines and "loss_over_t/0.0-0.5" in lines


def test_a_fast_run_leaves_nothing_behind(tmp_path):
    fit(tmp_path, everything(), flow(objective=AnnealedReflow()), fast_dev_run=True)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


# ----------------------------------------------------------------------------------------------------------
# histograms


def bent():
    """A flow so bent that samples need different numbers of evaluations."""
    module = flow()
    with torch.no_grad():
        module.network.mix.weight *= 10
    return module


def generated(num):
    module = bent()
    noises = data(num).noise.batch(range(num))
    with torch.no_grad():
        return {
            name: (module.codec.decode(found.x1), found.nfe)
            for name in module.solvers
            for found in [module.solve(name, noises)]
        }


@pytest.mark.parametrize("devices", [1, 2])
def test_histograms_are_of_all_images_on_all_ranks(tmp_path, devices):
    strategy = {"devices": 2, "strategy": "ddp_fork"} if devices == 2 else {}
    validate(tmp_path, [Dashboard()], bent(), num=15, batch=4, **strategy)
    events = read(tmp_path)
    assert sorted(events.Tags()["histograms"]) == ["nfe_per_sample/rk45", "pixels/euler", "pixels/rk45"]
    for name, (images, nfe) in generated(15).items():
        value = events.Histograms(f"pixels/{name}")[0].histogram_value
        counts = {
            round(limit - 0.5): count
            for limit, count in zip(value.bucket_limit, value.bucket, strict=True)
            if count
        }
        values, expected = images.unique(return_counts=True)
        assert value.num == images.numel() == sum(counts.values())
        if name == "euler":  # not adaptive, so equal to the bit
            assert counts == dict(zip(values.tolist(), expected.tolist(), strict=True))
            assert value.sum == images.sum() and value.sum_squares == images.double().square().sum()
            assert (value.min, value.max) == (images.min(), images.max())
        else:
            assert nfe.unique().numel() > 1
            shown = events.Histograms("nfe_per_sample/rk45")[0].histogram_value
            assert (shown.num, shown.min, shown.max, shown.sum) == (15, nfe.min(), nfe.max(), nfe.sum())


def test_a_histogram_of_counts_is_that_of_its_values():
    found = histogram(torch.tensor([0, 2, 0, 1]))
    assert (found["min"], found["max"], found["num"], found["sum"], found["sum_squares"]) == (1, 3, 3, 5, 11)
    assert found["bucket_limits"] == [0.5, 1.5, 2.5, 3.5] and found["bucket_counts"] == [0, 2, 0, 1]


def test_scalars_and_histograms_share_no_name(tmp_path):
    """TensorBoard shows only one kind of data of each name, so ``nfe/<solver>`` cannot be a number and a
    histogram.
    """
    fit(tmp_path, everything(), flow(objective=AnnealedReflow()))
    tags = read(tmp_path).Tags()
    kinds = [set(tags[kind]) for kind in ("scalars", "histograms", "images")]
    assert len(set.union(*kinds)) == sum(map(len, kinds))
    assert not any(tag.startswith("nfe/") for tag in tags["histograms"])


# ------------------------------------------------------------------------------------------------------------
# throughput


class Clock(Callback):
    """A training batch takes two seconds, a validation a hundred."""

    def __init__(self):
        self.now = 1000.0

    def perf_counter(self):
        return self.now

    def on_train_batch_start(self, *_):
        self.now += 2

    def on_validation_batch_start(self, *_):
        self.now += 100


def rates(folder):
    return [(event.step, event.value) for event in read(folder).Scalars("images_per_s/train")]


def test_training_speed_counts_training_only(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(
        "flowlit.callbacks.training.throughput.time", SimpleNamespace(perf_counter=clock.perf_counter)
    )
    fit(
        tmp_path,
        [Throughput(), clock],
        steps=6,
        log_every_n_steps=2,
        val_check_interval=3,
        num_sanity_val_steps=1,
    )
    assert rates(tmp_path) == [(1, 4.0), (3, 4.0), (5, 4.0)]  # 8 images in 2 s


def speed_by_a_clock(folder, **arguments):
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "flowlit.callbacks.training.throughput.time", SimpleNamespace(perf_counter=clock.perf_counter)
        )
        fit(folder, [Throughput(), clock], steps=2, **arguments)


def speed_of_two_ranks(folder):
    speed_by_a_clock(folder, devices=2, strategy="ddp_fork", limit_val_batches=0)


@pytest.mark.slow
def test_training_speed_counts_every_batch_of_a_step_and_every_rank(tmp_path):
    speed_by_a_clock(tmp_path / "one", accumulate_grad_batches=2)
    assert rates(tmp_path / "one") == [(0, 2.0), (1, 2.0)]  # 2 batches of 4 in 4 s
    apart(speed_of_two_ranks, tmp_path / "two")
    assert rates(tmp_path / "two") == [(0, 4.0), (1, 4.0)]  # 2 × 4 in 2 s


def test_files_stand_in_the_runs_folder(tmp_path):
    fit(tmp_path, everything(), flow(objective=AnnealedReflow()))
    found = {
        str(path.relative_to(tmp_path))
        for path in Path(tmp_path).rglob("*")
        if path.suffix in (".png", ".csv")
    }
    assert found == {
        "curves/loss_over_t.png",
        "curves/straightness.png",
        "curves/straightness.csv",
        "neighbours/rk45.png",
        "neighbours/euler.png",
    }


def test_the_protocol_explains_every_chart():
    text = (Path(__file__).parents[3] / "docs/protocol.md").read_text()
    prefixes = {
        re.match(r"[\w-]+", tag)[0].rstrip("_")
        for subjects in LAYOUT.values()
        for _, *tags in subjects.values()
        for tag in tags
    }
    assert {prefix for prefix in prefixes if f"`{prefix}" not in text} == set()


class Leaves(Callback):
    """Tells the run to stop between two logging steps."""

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.global_step == 8


def test_a_run_told_to_stop_between_two_logging_steps_writes_nothing_of_the_step_before(tmp_path):
    """Its last row repeated β and norm of an earlier step as if they were its own."""
    torch.manual_seed(3)
    module = FlowModule(tiny.Affine(), AnnealedReflow(), solvers={"euler": Euler(1)})
    callbacks = [Leaves(), Anneal(Linear(10)), EMA(0.9), Gradients(clip=1.0)]
    logger = CSVLogger(str(tmp_path), name="", version="")
    trainer = tiny.trainer(tmp_path, 20, callbacks, logger=logger, limit_val_batches=0, log_every_n_steps=5)
    trainer.fit(module, data())
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert [row["step"] for row in rows if row["anneal/beta"]] == ["4"]
    assert [row["step"] for row in rows if row["gradients/norm"]] == ["4"]
    assert [row["step"] for row in rows if row["train/loss"]] == ["4", "7"]
