"""Numbers, settings and pictures of a run in the loggers of others."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import tiny
import yaml
from commandline import REPOSITORY, in_process
from PIL import Image

CSV = "lightning.pytorch.loggers.CSVLogger"
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
