"""Logs, boards and progress of a run, with any logger or none."""

from __future__ import annotations

import importlib.util
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
import yaml
from commandline import REPOSITORY, in_process
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flowlit._support import progress
from flowlit._support.progress import Bar
from flowlit.callbacks.training.heat_map import COLUMNS, History, draw

MONITOR = "lightning.pytorch.callbacks.LearningRateMonitor"


def shipped() -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted((REPOSITORY / "experiments").rglob("*.yaml")):
        yield path, yaml.safe_load(path.read_text()) or {}


def callbacks_of(content: dict[str, Any]) -> list[str]:
    trainer = content.get("trainer") or {}
    return [entry["class_path"] for name in ("callbacks", "callbacks+") for entry in trainer.get(name) or []]


CSV = "lightning.pytorch.loggers.CSVLogger"
IMAGES = {"class_path": "flowlit.data.Digits", "init_args": {"limit": 30}}
SMALL: dict[str, dict[str, Any]] = {
    "flowlit.callbacks.Anneal": tiny.anneal(4)["init_args"],
    "flowlit.callbacks.BestCheckpoint": {"monitor": "straightness/sum", "mode": "min"},
    "flowlit.callbacks.ExtraLogger": {"logger": {"class_path": CSV, "init_args": {"save_dir": "nowhere"}}},
    "flowlit.callbacks.Interpolations": {"num": 2},
    "flowlit.callbacks.NearestNeighbours": {"images": IMAGES, "num": 4, "k": 2},
    "flowlit.callbacks.Straightness": {"steps": 4},
    "flowlit.callbacks.Throughput": {},
    "flowlit.callbacks.Trajectories": {"num": 2, "steps": 2, "euler": 2},
}
ELSEWHERE = {
    "flowlit.callbacks.ActivationCheckpointing",
    "flowlit.callbacks.ChannelsLast",
    "flowlit.callbacks.Compile",
    "flowlit.callbacks.CUDAGraphs",
    "flowlit.callbacks.MatmulPrecision",
    "flowlit.callbacks.FID",  # needs features; tests/callbacks/evaluation/test_fid.py has it without a logger
    "flowlit.callbacks.ImageWriter",  # of predict
}
"""Callbacks that log nothing, or are tried without a logger elsewhere."""


def test_every_shipped_callback_works_without_a_logger(tmp_path):
    """``--trainer.logger false`` over any YAML: LearningRateMonitor alone refused it."""
    used = dict.fromkeys(kind for _, content in shipped() for kind in callbacks_of(content))
    assert MONITOR in used and len(used) > 15
    callbacks = [
        {"class_path": kind, "init_args": SMALL.get(kind, {})} for kind in used if kind not in ELSEWHERE
    ]
    content = tiny.fit(tmp_path, "ReflowStudent", callbacks=callbacks, default_root_dir=str(tmp_path))
    content["trainer"] |= {"limit_val_batches": 1, "enable_model_summary": True, "enable_progress_bar": True}
    content["data"]["init_args"]["noise"] = tiny.noise(100)
    path = tiny.write(tmp_path / "run.yaml", content)
    for command in ("fit", "validate"):
        outcome = in_process(command, "-c", path, "--trainer.logger", "false")
        assert outcome.code == 0, outcome.err
    assert not list(tmp_path.rglob("*.png")) and not list(tmp_path.rglob("events*"))


def test_the_summary_is_one_line_without_floating_point_operations(tmp_path):
    callbacks = [tiny.EMA, {"class_path": MONITOR}]
    content = tiny.fit(tmp_path / "run", steps=1, callbacks=callbacks, enable_model_summary=True)
    outcome = in_process("fit", "-c", tiny.write(tmp_path / "run.yaml", content))
    assert outcome.code == 0, outcome.err
    assert "flowlit: network UNet, 45,745 parameters; averages: ema\n" in outcome.err
    assert not [word for word in ("FLOPs", "Non-trainable", "eval mode") if word in outcome.out + outcome.err]
    assert list((tmp_path / "run").glob("events*"))


@pytest.mark.parametrize("own", ["lightning.pytorch.callbacks.ModelSummary", None])
def test_a_summary_of_ones_own_or_none_stays(tmp_path, own):
    callbacks = [] if own is None else [{"class_path": own}]
    content = tiny.fit(tmp_path / "run", steps=1, callbacks=callbacks, enable_model_summary=own is not None)
    outcome = in_process("fit", "-c", tiny.write(tmp_path / "run.yaml", content))
    assert outcome.code == 0, outcome.err
    assert "flowlit: network" not in outcome.err


# loggers

LAYERS = REPOSITORY / "experiments/parts/loggers"
DRAWING = [{"class_path": f"flowlit.callbacks.{kind}"} for kind in ("Samples", "LossOverTime", "Dashboard")]
PICTURES = {"samples/euler2", "curves/loss_over_t"}


def with_pictures(folder: Path) -> Path:
    content = tiny.fit(folder / "run", callbacks=DRAWING, limit_val_batches=1)
    content["data"]["init_args"]["noise"] = tiny.noise(64)
    return tiny.write(folder / "run.yaml", content)


class Everything:
    """A client of a service: calls are kept by name, and every attribute is one."""

    def __init__(self):
        self.calls: list[tuple[str, tuple, dict]] = []
        self.info = SimpleNamespace(run_id="7", experiment_id="1")
        self.experiment_id = "1"
        self.lifecycle_stage = "active"
        self.config = self

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> Everything:
            self.calls.append((name, arguments, named))
            return self

        return call

    def named(self, name: str) -> list[tuple[tuple, dict]]:
        return [(arguments, named) for known, arguments, named in self.calls if known == name]


def installed(monkeypatch: pytest.MonkeyPatch, **modules: dict[str, Any]) -> None:
    """Let modules be imported that are not there; _ stands for a dot."""
    for name, content in modules.items():
        module = ModuleType(name.replace("_of_", "."))
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, module.__name__, module)


def test_weights_and_biases_has_numbers_settings_and_pictures(tmp_path, monkeypatch):
    run = Everything()
    kinds = {"Run": Everything, "RunDisabled": Everything}
    top = {"init": lambda **named: run.init(**named), "run": None, "Image": lambda image, **_: image}
    installed(monkeypatch, wandb=top, wandb_of_sdk={}, wandb_of_sdk_of_lib=kinds, wandb_of_wandb_run=kinds)
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", True)
    outcome = in_process("fit", "-c", with_pictures(tmp_path), "-c", LAYERS / "wandb.yaml")
    assert outcome.code == 0, outcome.err
    ((_, begun),) = run.named("init")
    assert begun["project"] == "flowlit" and begun["name"] == str(tmp_path / "run")
    logged = {tag: value for (metrics,), _ in run.named("log") for tag, value in metrics.items()}
    assert {"train/loss", "loss_over_t/0.5-0.6", "trainer/global_step", *PICTURES} <= set(logged)
    assert [image.shape for image in logged["samples/euler2"]] == [(4 * 65 + 1, 16 * 65 + 1, 3)]
    params = {name: value for (given,), _ in run.named("update") for name, value in given.items()}
    assert (params["stage"], params["parameters"], params["learning_rate"]) == ("run", 45_745, 1e-3)
    assert params["network"]["class_path"] == "flowlit.networks.UNet"
    assert list((tmp_path / "run").glob("events*")) and (tmp_path / "run/checkpoints/last.ckpt").exists()


def test_mlflow_has_numbers_settings_and_pictures(tmp_path, monkeypatch):
    client = Everything()
    entity = {"Metric": SimpleNamespace, "Param": SimpleNamespace}
    installed(
        monkeypatch,
        mlflow={"set_tracking_uri": lambda uri: None},
        mlflow_of_tracking={"MlflowClient": lambda uri: client},
        mlflow_of_tracking_of_context={},
        mlflow_of_tracking_of_context_of_registry={"resolve_tags": lambda tags: tags},
        mlflow_of_entities=entity,
        mlflow_of_utils={},
        mlflow_of_utils_of_mlflow_tags={"MLFLOW_RUN_NAME": "name"},
    )
    monkeypatch.setattr("lightning.pytorch.loggers.mlflow._MLFLOW_AVAILABLE", True)
    outcome = in_process("fit", "-c", with_pictures(tmp_path), "-c", LAYERS / "mlflow.yaml")
    assert outcome.code == 0, outcome.err
    assert client.named("create_run")[0][1]["tags"] == {"name": str(tmp_path / "run")}
    batches = [named for _, named in client.named("log_batch")]
    numbers = {entry.key for named in batches for entry in named.get("metrics", [])}
    params = {entry.key: entry.value for named in batches for entry in named.get("params", [])}
    assert {"train/loss", "loss_over_t/0.5-0.6"} <= numbers
    assert (params["stage"], params["parameters"], params["learning_rate"]) == ("run", "45745", "0.001")
    assert {named["key"] for _, named in client.named("log_image")} == PICTURES
    assert list((tmp_path / "run").glob("events*"))


def test_a_logger_without_pictures_leaves_them_to_the_folder(tmp_path):
    outcome = in_process("fit", "-c", with_pictures(tmp_path), "-c", LAYERS / "csv.yaml")
    assert outcome.code == 0, outcome.err
    assert not list(tmp_path.rglob("events*"))
    assert "train/loss" in (tmp_path / "run/metrics.csv").read_text().splitlines()[0]
    assert yaml.safe_load((tmp_path / "run/hparams.yaml").read_text())["stage"] == "run"
    for tag in PICTURES:
        assert Image.open(tmp_path / f"run/{tag}.png").width > 500


@pytest.mark.parametrize("layer", ["wandb", "mlflow"])
def test_a_package_that_is_missing_is_one_line_with_its_name(tmp_path, layer):
    if importlib.util.find_spec(layer) is not None:
        pytest.skip(f"{layer} is installed")
    error = in_process("fit", "-c", with_pictures(tmp_path), "-c", LAYERS / f"{layer}.yaml").error
    assert "pip install" in error and layer in error
    assert not (tmp_path / "run").exists()


def test_an_extra_logger_is_as_silent_as_the_trainer(tmp_path):
    path = with_pictures(tmp_path)
    csv = {
        "class_path": "lightning.pytorch.loggers.CSVLogger",
        "init_args": {"save_dir": str(tmp_path / "x")},
    }
    layer = {"callbacks+": [{"class_path": "flowlit.callbacks.ExtraLogger", "init_args": {"logger": csv}}]}
    extra = tiny.write(tmp_path / "extra.yaml", {"trainer": layer})
    for more in (["--trainer.logger", "false"], ["--trainer.fast_dev_run", "true"]):
        words = ("fit", "-c", path, "-c", extra, "--trainer.default_root_dir", tmp_path / "root", *more)
        assert in_process(*words).code == 0
    assert not (tmp_path / "x").exists()
    assert in_process("fit", "-c", path, "-c", extra).code == 0
    assert list((tmp_path / "x").rglob("metrics.csv")) and list((tmp_path / "run").glob("events*"))


# the loss over t, and evaluations


@settings(deadline=None, derandomize=True, max_examples=25)
@given(st.integers(1, 4 * COLUMNS), st.integers(1, 4))
def test_a_map_of_any_length_keeps_its_means_and_its_end(length, bins):
    history = History(bins)
    for step in range(length):
        history.add(step, torch.full((bins,), float(step)))
    steps = history.steps.tolist()
    assert len(steps) <= COLUMNS and steps == sorted(set(steps)) and steps[-1] == length - 1
    widths = torch.diff(history.steps, prepend=torch.tensor([-1])).float()
    expected = history.steps - (widths - 1) / 2  # the mean of the steps that a column stands for
    assert torch.equal(history.columns, expected[:, None].expand(-1, bins))


def test_a_map_goes_on_from_a_checkpoint_of_as_many_bins():
    history = History(3)
    history.add(4, torch.tensor([1.0, float("nan"), 2.0]))
    same, other = History(3), History(2)
    same.load_state_dict(history.state_dict())
    other.load_state_dict(history.state_dict())
    assert same.steps.tolist() == [4] and torch.equal(same.columns.isnan(), history.columns.isnan())
    assert len(other.steps) == 0


def test_a_map_with_empty_bins_and_losses_of_any_sign_is_drawn():
    for values in ([1.0, float("nan")], [0.0, -1.0], [float("nan")] * 2):
        history = History(2)
        history.add(9, torch.tensor(values))
        history.add(19, torch.tensor(values))
        figure = draw({"": history, "two_step": history})
        assert [axes.get_title() for axes in figure.axes[:2]] == ["loss over t", "loss over t two_step"]
        assert figure.axes[0].get_xlim() == (0, 20)
        figure.canvas.draw()


# progress


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.0)


def test_a_file_has_at_most_twenty_lines_of_a_bar(capsys, often):
    for _ in Bar(range(1000), desc="Importing", unit=" shards", mininterval=0, miniters=1):
        pass
    lines = capsys.readouterr().err.splitlines()
    assert 15 <= len(lines) <= progress.LINES
    assert lines[0].startswith("flowlit: Importing: 50 of 1,000 shards, ") and "left" in lines[0]


def test_what_is_soon_over_leaves_nothing_in_a_file(capsys):
    with Bar(total=100, desc="Timing") as bar:
        for _ in range(100):
            bar.update()
    assert capsys.readouterr().err == ""


def test_a_terminal_has_a_bar_that_moves(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    for _ in Bar(range(3), desc="Importing", unit=" shards"):
        pass
    assert "\rImporting: 100%" in terminal.getvalue() and "flowlit" not in terminal.getvalue()


def test_no_command_writes_a_bar_into_a_file(tmp_path, often):
    speed = {"class_path": "flowlit.callbacks.Throughput", "init_args": {"batch_size": 8, "repeats": 1}}
    callbacks = [speed, {"class_path": "flowlit.callbacks.Dashboard"}]
    folder = tmp_path / "made"
    writer = ["--trainer.callbacks+=flowlit.callbacks.ImageWriter", f"--trainer.callbacks.folder={folder}"]
    content = tiny.fit(tmp_path / "run", callbacks=callbacks, enable_progress_bar=True, limit_val_batches=1.0)
    content["data"]["init_args"] |= {"noise": tiny.noise(300), "noise_batch_size": 100}
    path = tiny.write(tmp_path / "run.yaml", content)
    commands = {
        "couple": ["--store", tmp_path / "store", "--num", 200, "--batch_size", 50],
        "validate": [],
        "predict": writer,
        "sweep": ["--num", 100],
    }
    for command, options in commands.items():
        outcome = in_process(command, "-c", path, *options)
        assert outcome.code == 0, outcome.err
        assert "\r" not in outcome.out + outcome.err and "%|" not in outcome.out + outcome.err, command
        assert (" of 3 batches" in outcome.err) == (command != "couple"), outcome.err
        assert (" of 200 pairs" in outcome.err) == (command == "couple")
    assert Image.open(tmp_path / "run/evaluation.png").width == 1200
    words = ("images", folder, "--resolution", 4, "--into", tmp_path / "made.zip")
    outcome = in_process(*words)
    assert outcome.code == 0 and "%|" not in outcome.err, outcome.err
