"""Logs, boards and progress of a run, with any logger or none."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import yaml
from commandline import REPOSITORY, in_process
from forks import apart
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image

from flowlit._support import progress
from flowlit._support.progress import Bar
from flowlit.callbacks import Dashboard, LossOverTime, Throughput
from flowlit.callbacks.training.heat_map import COLUMNS, History, draw
from flowlit.couplings import Independent, SeededNoise
from flowlit.data import Digits
from flowlit.modules import FlowDataModule, FlowModule
from flowlit.objectives import RectifiedFlow
from flowlit.solvers import Euler

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
    "flowlit.callbacks.PairedMetrics",  # needs degraded images
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
    for command, more in (("fit", []), ("validate", ["--untrained", "true"])):
        outcome = in_process(command, "-c", path, "--trainer.logger", "false", *more)
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
    same = History(3)
    other = History(2)
    same.load_state_dict(history.state_dict())
    other.load_state_dict(history.state_dict())
    assert same.steps.tolist() == [4] and torch.equal(same.columns.isnan(), history.columns.isnan())
    assert len(other.steps) == 0


def test_a_map_with_empty_bins_and_losses_of_any_sign_is_drawn():
    for values in ([1.0, float("nan")], [0.0, -1.0], [float("nan")] * 2, [float("inf")] * 2):
        history = History(2)
        history.add(9, torch.tensor(values))
        history.add(19, torch.tensor(values))
        figure = draw({"": history, "two_step": history})
        assert [axes.get_title() for axes in figure.axes[:2]] == ["loss over t", "loss over t two_step"]
        assert figure.axes[0].get_xlim() == (0, 20)
        figure.canvas.draw()


def draw_on_two_ranks(folder):
    """Train and validate with everything that draws, on two processes."""
    data = FlowDataModule(
        Independent(Digits(labels=False)), batch_size=8, noise=SeededNoise(tiny.SHAPE, 16), seed=1
    )
    module = FlowModule(tiny.Affine(), RectifiedFlow(), solvers={"euler": Euler(1)})
    logger = TensorBoardLogger(str(folder), name="", version="")
    trainer = tiny.trainer(
        folder,
        4,
        [LossOverTime(), Dashboard(), Throughput(8, 1)],
        logger=logger,
        devices=2,
        strategy="ddp_fork",
    )
    trainer.fit(module, data)
    trainer.validate(module, data, verbose=False)


def test_two_processes_draw_once_and_wait_for_nothing(tmp_path):
    apart(draw_on_two_ranks, tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png")} == {
        "curves/loss_over_t.png",
        "evaluation.png",
    }


# progress


@pytest.fixture
def often(monkeypatch):
    """Make every step of a bar due, however fast the machine is."""
    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.setattr(Bar, "__init__", partialmethod(Bar.__init__, mininterval=0, miniters=1))


def test_a_file_has_at_most_twenty_lines_of_a_bar(capsys, often):
    for _ in Bar(range(1000), desc="Importing", unit=" shards"):
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
        outcome = in_process(command, "-c", path, "--untrained", "true", *options)
        assert outcome.code == 0, outcome.err
        assert "\r" not in outcome.out + outcome.err and "%|" not in outcome.out + outcome.err, command
        assert (" of 3 batches" in outcome.err) == (command != "couple"), outcome.err
        assert (" of 200 pairs" in outcome.err) == (command == "couple")
    assert Image.open(tmp_path / "run/evaluation.png").width == 1200
    words = ("images", folder, "--resolution", 4, "--into", tmp_path / "made.zip")
    outcome = in_process(*words)
    assert outcome.code == 0 and "%|" not in outcome.err, outcome.err
