"""Speed: images a second in training and by each solver, and the parts of a step's time."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from contextvars import copy_context
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info

from ... import rng
from ..._engine.lightning import is_logging_step
from ..._support.timers import StepTimer
from ...metrics.cost import count_flops
from ...metrics.speed import images_per_second, matmul_rate
from ...ranges import PositiveInt
from ...types import Noise
from ..evaluation.base import Evaluation
from .ema import EMA
from .image_parts import other_parts

PARTS = ("data", "forward", "backward", "optimizer", "ema", "rest")


PAUSE = "pause"


class Throughput(Evaluation):
    """Log the images a second of training and of each solver, and the parts of a step's time.

    ``images_per_s/train`` during ``fit``: training images of all ranks by wall time since it was last logged,
    which is when the trainer logs; validation is left out, waiting for data and checkpoints are not.
    ``step_seconds/all`` is the same time for each batch, ``step_seconds/coupling`` the part of it that the
    coupling takes on the device: the teacher's solver, where pairs are made on the fly (it runs beside the
    training step if ``data.overlap`` lets it). On a GPU ``fraction_of_peak/train`` is what networks and
    gradients multiply and add in that time, by what the device can (``matmul_rate``, in the precision of
    training).

    ``step_seconds/data`` (waiting for a batch and preparing it), ``forward``, ``backward``, ``optimizer``
    (with ``Gradients``), ``ema`` (all averages) and ``rest`` (other callbacks, logging, checkpoints) add up
    to ``all``: on a CPU by the clock, on a GPU by events in the stream of the training step, which is waited
    for where they are logged and nowhere else. Callbacks that stand before this one in the list count as
    ``optimizer`` after a step, and as ``data`` before it; with manual optimization all that lies between two
    backward passes of a batch is ``optimizer``.

    Outside training, where nothing else competes, ``images_per_s/<solver>`` of this device: the median of
    some timed repeats on one batch, after a warm-up. Where prompts are encoded, or latents decoded,
    ``image_seconds/text``, ``image_seconds/network/<solver>`` and ``image_seconds/decoder`` are the parts of
    an image's time, taken in the same way.

    Args:
        batch_size: samples generated at a time.
        repeats: timed calls of which the median counts.
    """

    def __init__(self, batch_size: PositiveInt = 256, repeats: PositiveInt = 3):
        self.batch_size = batch_size
        self.repeats = repeats
        self._noise: Noise | None = None
        self._images = 0
        self._batches = 0
        self._since = 0.0
        self._paused = 0.0
        self._line = StepTimer()
        self._last: Last | None = None
        self._peak = 0.0  # FLOP/s; 0 if unknown
        self._work: int | None = None  # FLOPs of a batch; None before it was counted
        self._warm = False  # whether a batch has been trained on

    def protocol(self) -> dict[str, Any]:
        timed = 0 if self._noise is None else len(self._noise.x0)
        return {"images_per_s": {"batch_size": timed, "repeats": self.repeats}}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if stage == "fit" and self._last not in callbacks:
            self._last = Last(self._line)
            callbacks.append(self._last)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if self._last in callbacks:
            callbacks.remove(self._last)
        for average in averages(trainer):
            average.measure(nullcontext)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._peak = peak(trainer)
        self._work = None
        self._warm = False
        for average in averages(trainer):
            average.measure(partial(self._line.during, "ema"))
        self._line.begin("data", trainer.strategy.root_device)
        self._images = 0
        self._batches = 0
        self._since = time.perf_counter()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._line.mark("rest")
        if self._peak and self._work is None and self._warm:  # the first batch makes what is made once
            self._pause()
            self._work = work(trainer, pl_module, batch)
            self._go_on("rest")

    def on_before_backward(self, *_: Any) -> None:
        self._line.mark("backward")

    def on_after_backward(self, *_: Any) -> None:
        self._line.mark("optimizer")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._line.mark("rest")
        self._warm = True
        self._images += len(batch.x1) * trainer.world_size
        self._batches += 1
        if is_logging_step(trainer):
            self._log(trainer, pl_module)

    def _log(self, trainer: pl.Trainer, module: Any) -> None:
        parts = self._line.read()
        now = time.perf_counter()
        log = partial(module.log, batch_size=1)
        seconds = (now - self._since) / self._batches
        log("images_per_s/train", self._images / (now - self._since))
        log("step_seconds/all", seconds)
        for part in PARTS:
            log(f"step_seconds/{part}", parts.get(part, 0.0) / self._batches)
        data: Any = getattr(trainer, "datamodule", None)
        if hasattr(data, "coupling_seconds"):
            log("step_seconds/coupling", data.coupling_seconds())
        if self._work:
            log("fraction_of_peak/train", self._work / seconds / self._peak)
        self._images = 0
        self._batches = 0
        self._since = now

    def _pause(self) -> None:
        self._paused = time.perf_counter()
        self._line.mark(PAUSE)

    def _go_on(self, part: str) -> None:
        self._since += time.perf_counter() - self._paused
        self._line.mark(part)

    def begin(self, trainer: pl.Trainer, module: Any) -> None:
        if trainer.state.fn == "fit":
            self._pause()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._go_on("data")

    def look(self, trainer: pl.Trainer, module: Any, outputs: Any, batch_idx: int) -> None:
        if batch_idx == 0 and outputs is not None:  # None of a module that generates nothing
            noise = outputs["noise"]
            cond = {key: value[: self.batch_size] for key, value in noise.cond.items()}
            self._noise = Noise(noise.index[: self.batch_size], noise.x0[: self.batch_size], cond)

    def end(self, trainer: pl.Trainer, module: Any) -> None:
        noise = self._noise
        if noise is None or trainer.state.fn == "fit":
            return
        others = other_parts(trainer, module, noise)
        for name in module.solvers:
            with trainer.precision_plugin.val_step_context():
                rate = self._rate(module, partial(module.solve, name, noise))
            module.log(f"images_per_s/{name}", rate, rank_zero_only=True)
            if others:
                module.log(f"image_seconds/network/{name}", 1 / rate, rank_zero_only=True)
        for part, call in others.items():
            module.log(f"image_seconds/{part}", 1 / self._rate(module, call), rank_zero_only=True)

    def _rate(self, module: Any, call: Callable[[], object]) -> float:
        assert self._noise is not None
        return images_per_second(call, len(self._noise.x0), self.repeats, module.device)


class Last(Callback):
    """Marks of a training step's begin and end, behind all other callbacks."""

    def __init__(self, line: StepTimer):
        self.line = line

    def on_train_batch_start(self, *_: Any) -> None:
        self.line.mark("forward")

    def on_train_batch_end(self, *_: Any) -> None:
        self.line.mark("data")


def averages(trainer: pl.Trainer) -> list[EMA]:
    """Return the callbacks that average weights."""
    return [callback for callback in trainer.callbacks if isinstance(callback, EMA)]  # type: ignore[attr-defined]


def peak(trainer: pl.Trainer) -> float:
    """FLOP/s of products in the precision of training; 0 on a CPU.

    In float32 with TF32, if convolutions may use it.
    """
    device = trainer.strategy.root_device
    precision = str(trainer.precision)
    if device.type != "cuda":
        return 0.0
    kinds = {"bf16": torch.bfloat16, "16": torch.float16, "64": torch.float64}
    before = torch.get_float32_matmul_precision()
    if torch.backends.cudnn.allow_tf32 and before == "highest":
        torch.set_float32_matmul_precision("high")
    try:
        return matmul_rate(device, kinds.get(precision.split("-")[0], torch.float32))
    except torch.OutOfMemoryError:
        rank_zero_info(
            "flowlit: the fraction of the device's peak is unknown: too little memory is free to measure "
            "the peak"
        )
        return 0.0
    finally:
        torch.set_float32_matmul_precision(before)


def work(trainer: pl.Trainer, module: Any, batch: Any) -> int:
    """FLOPs of a batch's objective, with its frozen networks, and of the gradients.

    If they cannot be counted that is reported, and they are 0; also where two networks are trained in turns.
    """
    if getattr(module, "objective", None) is None or len(trainer.optimizers) > 1:
        return 0

    def loss(objective: Any, network: Any) -> torch.Tensor:
        rng.begin(None)  # the shapes of draws matter, not their numbers
        with trainer.precision_plugin.train_step_context():
            return objective(network, batch)["loss"]

    try:
        return copy_context().run(count_flops, loss, module.objective, module.network)
    except Exception as error:  # whatever it is, a number beside the training must not end it
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        rank_zero_info(f"flowlit: the fraction of the device's peak is unknown: {reason}")
        return 0
