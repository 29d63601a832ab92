"""Things small enough to train in a test: networks, configurations, trainers."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from flowlit.commands.trainer import FlowTrainer

SHAPE = (1, 8, 8)


class Affine(nn.Module):
    """v = a x + b t + c, the smallest velocity that can learn something; without ``spec``, as a user's own
    network.
    """

    def __init__(self, channels: int = 1):
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, 3, padding=1)
        self.drift = nn.Parameter(torch.zeros(channels, 8, 8))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor, t: Tensor, cond: Any = {}) -> Tensor:
        self.calls += 1
        return self.mix(x) + self.drift * t[:, None, None, None]


def unet(**arguments: Any) -> dict[str, Any]:
    """The configuration of a network of 46 thousand parameters."""
    small = {
        "resolution": 8,
        "in_channels": 1,
        "width": 8,
        "multipliers": [1, 2],
        "blocks": 1,
        "attention_resolutions": [],
    }
    return {"class_path": "flowlit.networks.UNet", "init_args": {**small, "dropout": 0.0, **arguments}}


def noise(num: int = 8, **arguments: Any) -> dict[str, Any]:
    return {
        "class_path": "flowlit.couplings.SeededNoise",
        "init_args": {"shape": list(SHAPE), "num": num, **arguments},
    }


def digits(**arguments: Any) -> dict[str, Any]:
    images = {"class_path": "flowlit.data.Digits", "init_args": {"labels": False, **arguments}}
    return {"class_path": "flowlit.couplings.Independent", "init_args": {"images": images}}


def cached(store: Path | str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": "flowlit.couplings.Cached", "init_args": {"store": str(store), **arguments}}


def anneal(steps: int) -> dict[str, Any]:
    schedule = {"class_path": "flowlit.schedules.Linear", "init_args": {"steps": steps}}
    return {"class_path": "flowlit.callbacks.Anneal", "init_args": {"schedule": schedule}}


def checkpoints(every: int = 4) -> dict[str, Any]:
    return {"class_path": "flowlit.callbacks.LastCheckpoint", "init_args": {"every_n_train_steps": every}}


EMA = {"class_path": "flowlit.callbacks.EMA", "init_args": {"decay": 0.9}}


def fit(
    root: Path | str,
    module: str = "Teacher",
    network: dict[str, Any] | None = None,
    coupling: dict[str, Any] | None = None,
    callbacks: list[dict[str, Any]] | None = None,
    steps: int = 4,
    data: dict[str, Any] | None = None,
    **trainer: Any,
) -> dict[str, Any]:
    """A whole experiment that writes into ``root``."""
    adam = {"class_path": "torch.optim.Adam", "init_args": {"lr": 1e-3, "betas": [0.9, 0.99]}}
    euler = {"class_path": "flowlit.solvers.Euler", "init_args": {"steps": 2}}
    model = {"network": network or unet(), "optimizer": adam, "solvers": {"euler2": euler}}
    logger = {"save_dir": str(root), "name": "", "version": ""}
    return {
        "seed_everything": 7,
        "model": {"class_path": f"flowlit.modules.{module}", "init_args": model},
        "data": {
            "class_path": "flowlit.modules.FlowDataModule",
            "init_args": {
                "coupling": coupling or digits(),
                "batch_size": 8,
                "seed": 3,
                "noise": noise(),
                **(data or {}),
            },
        },
        "trainer": {
            "accelerator": "cpu",
            "max_steps": steps,
            "limit_val_batches": 0,
            "num_sanity_val_steps": 0,
            "enable_model_summary": False,
            "enable_progress_bar": False,
            "log_every_n_steps": 1,
            "logger": {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": logger},
            "callbacks": [EMA, checkpoints()] if callbacks is None else callbacks,
            **trainer,
        },
    }


def write(path: Path, content: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def trainer(root: Path | str, steps: int = 4, callbacks: Any = (), **arguments: Any) -> FlowTrainer:
    """A quiet trainer for modules that are built in Python; on the CPU unless told otherwise."""
    quiet = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    settings = {**quiet, "max_steps": steps, "num_sanity_val_steps": 0, "log_every_n_steps": 1, **arguments}
    return FlowTrainer(default_root_dir=str(root), callbacks=list(callbacks), **settings)


def weights(checkpoint: Path | str) -> dict[str, Tensor]:
    """Network and average of a checkpoint."""
    return torch.load(checkpoint, weights_only=True)["state_dict"]


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two state dicts are equal to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


class KillAt(Callback):
    """Ends its own process as `kill -9` would, before a given step; only once if a file to remember it by is
    given.
    """

    def __init__(self, step: int, once: str | None = None):
        self.step, self.once = step, once

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step and not (self.once and Path(self.once).exists()):
            if self.once:
                Path(self.once).touch()
            os.kill(os.getpid(), signal.SIGKILL)


class KillAfter(Callback):
    """The same after some predicted batches, the last of which may still be on its way to the disk."""

    def __init__(self, batches: int):
        self.batches = batches

    def on_predict_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        if batch_idx + 1 == self.batches:
            os.kill(os.getpid(), signal.SIGKILL)


class Seen(Callback):
    """Writes a fingerprint of every batch (of its data, of its noise) to ``<folder>/<rank>.txt``."""

    def __init__(self, folder: str):
        self.folder = folder

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        path = Path(self.folder) / f"{trainer.global_rank}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a") as file:
            file.writelines(
                f"{float(x1.sum())} {float(x0.sum())}\n" for x0, x1 in zip(batch.x0, batch.x1, strict=True)
            )
