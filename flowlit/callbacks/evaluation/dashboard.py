"""Pages of a run in TensorBoard: charts by subject, a row in the table of runs, histograms."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torchmetrics import CatMetric

from ..._engine.lightning import log_no_default_metric
from ..._support.nested import flatten
from ...metrics.cost import count_parameters
from .bars import by_solver, draw
from .base import Evaluation, command_of, numbers
from .pictures import boards, show_figure
from .report import place

LAYOUT: dict[str, dict[str, tuple[str, ...]]] = {
    "Training": {
        "loss and its parts": ("fit", "train/"),
        "loss over t": ("LossOverTime", "loss_over_t"),
        "annealing: β": ("Anneal", "anneal/(?!ema_decay)"),
        "decay of the average": ("EMA", "anneal/ema_decay"),
        "gradients": ("Gradients", "gradients/"),
        "learning rate": ("LearningRateMonitor", "lr-"),
    },
    "Images": {
        "Fréchet distance": ("FID", "fid/", "frechet_(?!extrapolated_)"),
        "Fréchet distance, extrapolated": (
            "FrechetExtrapolated",
            "fid_extrapolated/",
            "frechet_extrapolated_",
        ),
        "kernel distance": ("KID", "kid/", "kernel_distance_"),
        "classifier score": ("InceptionScore", "inception_score/", "classifier_score_"),
        "precision and recall": ("PrecisionRecall", "precision", "recall"),
        "memorisation": ("NearestNeighbours", "memorisation/"),
        "network evaluations": ("FID", "nfe/"),
    },
    "Flow": {
        "straightness, summed": ("Straightness", "straightness/sum$"),
        "straightness per dimension": ("Straightness", "straightness/per_dimension$"),
        "curvature": ("Straightness", "curvature/"),
        "error of one step": ("Straightness", "chord_error/"),
        "transport cost, summed": ("Straightness", "transport_cost/sum$"),
        "transport cost per dimension": ("Straightness", "transport_cost/per_dimension$"),
        "error of solvers": ("Sweep", "endpoint_error/"),
    },
    "Speed": {
        "images a second": ("Throughput", "images_per_s/"),
        "seconds a batch": ("Throughput", "step_seconds/(all|coupling)$"),
        "where they go": ("Throughput", "step_seconds/(data|forward|backward|optimizer|ema|rest)$"),
        "fraction of the device's peak": ("Throughput", "fraction_of_peak/"),
    },
}
"""Category -> chart -> what logs it (a callback, a measure, or a command), and regular expressions of its
tags, which TensorBoard matches from their first letter (``re.match``)."""

COURSE = (
    "train/",
    "loss_over_t",
    "anneal/",
    "gradients/",
    "lr-",
    "images_per_s/train",
    "step_seconds/",
    "fraction_of_peak/",
)
"""Tags of the course of a training rather than its outcome."""


class Dashboard(Evaluation):
    """Give a run its pages in TensorBoard: charts by subject, a row in the table of runs, histograms.

    CUSTOM SCALARS shows what of ``LAYOUT`` this run will log. HPARAMS compares runs: stage, parameters,
    learning rate and all settings beside the outcome, which is what validation or test logged last and
    ``train/loss``. Histograms ``pixels/<solver>`` are of generated values 0 … 255,
    ``nfe_per_sample/<solver>`` of network evaluations where they differ. ``validate`` and ``test`` draw
    their numbers as bars: ``evaluation``. Other loggers receive stage, command, size and learning rate.
    """

    def __init__(self) -> None:
        self._laid_out = False
        self._pixels: dict[str, Tensor] = {}
        self._nfe: dict[str, CatMetric] = {}
        self._outcome: dict[str, float] = {}  # of the part of a run before it was stopped

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._laid_out = False
        self._outcome = {}
        for logger in trainer.loggers:
            log_no_default_metric(logger)  # before Lightning logs hyper-parameters

    def _lay_out(self, trainer: pl.Trainer, module: Any) -> None:
        if self._laid_out:
            return
        self._laid_out = True
        for board in boards(trainer):
            board.add_custom_scalars(layout(present(trainer)))
        params = facts(trainer, module)
        for logger in trainer.loggers:
            if not isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(params)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._lay_out(trainer, pl_module)

    def begin(self, trainer: pl.Trainer, module: Any) -> None:
        self._lay_out(trainer, module)
        self._pixels = {}
        self._nfe = {}
        for name in getattr(module, "solvers", {}):
            self._pixels[name] = torch.zeros(256, dtype=torch.int64, device=module.device)
            self._nfe[name] = CatMetric().to(module.device)

    def look(self, trainer: pl.Trainer, module: Any, outputs: Any, batch_idx: int) -> None:
        for name in self._pixels:
            solution = outputs["solutions"][name]
            values = module.codec.decode(solution.x1).flatten().int()
            self._pixels[name] += torch.bincount(values, minlength=256)
            self._nfe[name].update(solution.nfe.float())

    def end(self, trainer: pl.Trainer, module: Any) -> None:
        for name, counts in self._pixels.items():
            counts = trainer.strategy.reduce(counts, reduce_op="sum")
            nfe = self._nfe[name].compute()
            for board in boards(trainer):
                board.add_histogram_raw(
                    f"pixels/{name}", global_step=trainer.global_step, **histogram(counts)
                )
                if len(nfe) and nfe.min() < nfe.max():
                    board.add_histogram(f"nfe_per_sample/{name}", nfe, trainer.global_step)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Store the outcome so far: the remainder of a run that goes on may log none of it again."""
        checkpoint["callbacks"][self.state_key] = {"outcome": {**self._outcome, **outcome(trainer)}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._outcome = dict(state_dict["outcome"])

    def _compare(self, trainer: pl.Trainer, module: Any, metrics: dict[str, float]) -> None:
        params = {**facts(trainer, module), **hyper_parameters(trainer, module)}
        ordered = {name: metrics[name] for name in sorted(metrics, key=place)}
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and metrics:
                logger.log_hyperparams(params, ordered, trainer.global_step)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._compare(trainer, pl_module, {**self._outcome, **outcome(trainer)})

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit":
            return
        self._compare(trainer, pl_module, outcome(trainer))
        own = by_solver(numbers(trainer), list(getattr(pl_module, "solvers", {})))
        measures = trainer.strategy.broadcast(own)  # rank 0 has more, and all ranks must draw or none
        if measures and command_of(trainer) != "sweep":
            show_figure(trainer, "evaluation", lambda: draw(measures))

    on_test_end = on_validation_end


def layout(present: set[str]) -> dict[str, dict[str, list[Any]]]:
    """Return charts of what is present, by category, for ``SummaryWriter.add_custom_scalars``."""
    pages: dict[str, dict[str, list[Any]]] = {}
    for title, subjects in LAYOUT.items():
        for chart, (source, *tags) in subjects.items():
            if source in present:
                pages.setdefault(title, {})[chart] = ["Multiline", tags]
    return pages


def present(trainer: pl.Trainer) -> set[str]:
    """Return what will log something in this run: classes of callbacks and measures, and the command."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    measures = [measure for callback in callbacks for measure in getattr(callback, "measures", [])]
    return {command_of(trainer), *(type(thing).__name__ for thing in [*callbacks, *measures])}


def outcome(trainer: pl.Trainer) -> dict[str, float]:
    """Return what was logged last of each metric that belongs into a table of runs."""
    return {
        name: float(value) for name, value in sorted(trainer.callback_metrics.items()) if is_outcome(name)
    }


def is_outcome(tag: str) -> bool:
    """Return whether a metric belongs into a table of runs."""
    return tag == "train/loss" or not tag.startswith(COURSE)


def histogram(counts: Tensor) -> dict[str, Any]:
    """Return counts (N,) of the values 0, 1, … N - 1 for ``SummaryWriter.add_histogram_raw``.

    Value i is counted between i - 1/2 and i + 1/2.
    """
    values = torch.arange(len(counts), dtype=torch.float64)
    counts = counts.cpu().double()
    seen = values[counts > 0].tolist() or [0.0]
    return {
        "min": seen[0],
        "max": seen[-1],
        "num": float(counts.sum()),
        "sum": float(values @ counts),
        "sum_squares": float(values**2 @ counts),
        "bucket_limits": (values + 0.5).tolist(),
        "bucket_counts": counts.tolist(),
    }


def facts(trainer: pl.Trainer, module: Any) -> dict[str, Any]:
    """Return what distinguishes runs at first sight: stage, command, size and learning rate.

    Every rank must call it, since Lightning broadcasts the folder.
    """
    folder = Path(trainer.log_dir or "")
    folder = folder.parent if re.fullmatch(r"version_\d+", folder.name) else folder
    rates = [optimizer.defaults["lr"] for optimizer in trainer.optimizers if "lr" in optimizer.defaults]
    return {
        "stage": folder.name,
        "command": command_of(trainer),
        "parameters": count_parameters(getattr(module, "network", module)),
        **({"learning_rate": float(rates[0])} if rates else {}),
    }


def hyper_parameters(trainer: pl.Trainer, module: Any) -> dict[str, Any]:
    """Return the configuration of a run, flat: the module's arguments, batch size, seeds, steps."""
    data = getattr(trainer, "datamodule", None)
    noise = getattr(data, "noise", None)
    settings = {
        "data.batch_size": getattr(data, "batch_size", None),
        "data.seed": getattr(data, "seed", None),
        "data.noise.seed": getattr(noise, "seed", None),
        "data.noise.num": None if noise is None else len(noise),
        "trainer.max_steps": trainer.max_steps,
        "seed_everything": os.environ.get("PL_GLOBAL_SEED"),
    }
    params = {
        **flatten({name: value for name, value in module.hparams.items() if not name.startswith("_")}),
        **settings,
    }
    return {name: value for name, value in params.items() if isinstance(value, (bool, int, float, str))}
