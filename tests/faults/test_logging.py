"""What a run logs and prints, with any logger or none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from commandline import REPOSITORY, in_process

MONITOR = "lightning.pytorch.callbacks.LearningRateMonitor"


def shipped() -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted((REPOSITORY / "experiments").rglob("*.yaml")):
        yield path, yaml.safe_load(path.read_text()) or {}


def callbacks_of(content: dict[str, Any]) -> list[str]:
    trainer = content.get("trainer") or {}
    return [entry["class_path"] for name in ("callbacks", "callbacks+") for entry in trainer.get(name) or []]


IMAGES = {"class_path": "flowlit.data.Digits", "init_args": {"limit": 30}}
SMALL: dict[str, dict[str, Any]] = {
    "flowlit.callbacks.Anneal": tiny.anneal(4)["init_args"],
    "flowlit.callbacks.BestCheckpoint": {"monitor": "straightness/sum", "mode": "min"},
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
