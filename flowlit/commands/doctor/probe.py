"""A few steps of training and some images, in a trainer of their own.

It has one device and small batches, and writes nothing.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy, deepcopy
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..._support.timers import DeviceTimer
from ...callbacks.speed.memory import ActivationCheckpointing, ChannelsLast
from ...callbacks.speed.precision import MatmulPrecision
from ...callbacks.training.anneal import Anneal
from ...callbacks.training.ema import EMA
from ...callbacks.training.gradients import Gradients
from ...modules import FlowDataModule
from .measured import Measured
from .subject import Subject


class Watch(Callback):
    """Notes when each step and each validation batch ended, and what state there is after the last step."""

    def __init__(self, measured: Measured, clock: Callable[[], Any] = time.perf_counter) -> None:
        self.measured = measured
        self.clock = clock
        self.times: list[Any] = []
        self.outputs: Any = None
        self.known: set[int] = set()
        """Addresses of weights, once they are on the device."""
        self.kept: dict[int, torch.UntypedStorage] = {}
        """What autograd keeps in this batch, if ``kept_for_backward`` fills it in."""
        self.most = 0
        """Bytes of it in the batch that keeps most: two networks that train in turns keep theirs in turns."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.known.update(tensor.untyped_storage().data_ptr() for tensor in state_of(pl_module))
        self.kept.clear()

    def _note(self, module: pl.LightningModule) -> None:
        if module.device.type == "cuda":
            torch.cuda.synchronize(module.device)
        self.times.append(self.clock())

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self._note(pl_module)
        self.most = max(self.most, sum(storage.nbytes() for storage in self.kept.values()))
        self.kept.clear()
        if len(self.times) == 1:  # pairs of the first step may have been read to the device
            trainer.datamodule.coupling_seconds()  # type: ignore[attr-defined]

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        measured = self.measured
        trained = [parameter for parameter in pl_module.parameters() if parameter.requires_grad]
        states = [state for optimizer in trainer.optimizers for state in optimizer.state.values()]
        measured.weights = nbytes(state_of(pl_module))
        measured.gradients = nbytes(trained)
        measured.optimizer = sum(map(nbytes, states))
        measured.checkpoint = nbytes(pl_module.state_dict()) + measured.optimizer

    def on_validation_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self._note(pl_module)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any
    ) -> None:
        self._note(pl_module)
        self.outputs = outputs


class Launches(TorchDispatchMode):
    """Count the operations of PyTorch that compute something."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def state_of(module: nn.Module) -> list[Tensor]:
    """Return the parameters and buffers of a module, of any shape."""
    return [*module.parameters(), *module.buffers()]


def nbytes(tensors: Any) -> int:
    """Return the bytes of all tensors of a list or mapping."""
    values = tensors.values() if hasattr(tensors, "values") else tensors
    return sum(value.nbytes for value in values if isinstance(value, Tensor))


IN_A_STEP = (Anneal, EMA, Gradients, MatmulPrecision, ChannelsLast, ActivationCheckpointing)
"""Callbacks that take part in a training step."""


def probe_trainer(trainer: pl.Trainer, watch: Watch, steps: int = 1, validate: bool = False) -> pl.Trainer:
    """Return a trainer with the device, precision and clipping of another.

    It has copies of the other's callbacks that take part in a step.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    own = [deepcopy(callback) for callback in callbacks if isinstance(callback, IN_A_STEP)]
    for average in own:
        if isinstance(average, EMA):
            average.snapshots = None  # they are files
    cuda = isinstance(trainer.accelerator, CUDAAccelerator)
    return pl.Trainer(
        # by name: given the object, Lightning sets autocast up for CUDA
        accelerator=trainer.strategy.root_device.type,
        devices=trainer.device_ids[:1] if cuda else 1,
        precision=trainer.precision,
        gradient_clip_val=trainer.gradient_clip_val,
        gradient_clip_algorithm=trainer.gradient_clip_algorithm,
        max_steps=steps,
        limit_val_batches=int(validate),
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[watch, *own],
    )


def with_batch(data: FlowDataModule, **changes: Any) -> FlowDataModule:
    """Return the same data in other batches, read in this process."""
    small = copy(data)
    vars(small).update(num_workers=0, device_batch_size=None, _measured={}, _timer=DeviceTimer())
    vars(small).update(changes)
    return small


def train(subject: Subject, patient: Any, watch: Watch, samples: int, steps: int = 1) -> FlowDataModule:
    """Train for some steps; return the data that were trained on."""
    data = with_batch(subject.data, coupling=copy(subject.data.coupling), batch_size=samples)
    with quiet():
        probe_trainer(subject.trainer, watch, steps).fit(patient, datamodule=data)
    return data


def generate(subject: Subject, patient: Any, samples: int) -> Watch:
    """Validate one batch."""
    noise = subject.data.noise and subject.data.noise.first(samples)
    watch = Watch(subject.measured)
    data = with_batch(subject.data, noise=noise, noise_batch_size=samples, coupling=None)
    with quiet():
        probe_trainer(subject.trainer, watch, validate=True).validate(patient, datamodule=data, verbose=False)
    return watch


@contextmanager
def kept_for_backward(known: set[int]) -> Iterator[dict[int, torch.UntypedStorage]]:
    """Yield every storage that autograd keeps for the backward pass, by its address, but ``known`` ones."""
    storages: dict[int, torch.UntypedStorage] = {}  # references, so that no address is used twice

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield storages


@contextmanager
def quiet() -> Iterator[None]:
    """Silence logs and warnings of trainers that the user has not configured."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
