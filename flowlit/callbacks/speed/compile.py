"""Compiled networks."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Any, Literal
from weakref import WeakSet

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch import nn

from ..._engine.lightning import global_batches
from ..._engine.sharding import Sharded
from ..._support.cuda_graphs import FirstCallGraphed, check_device
from ...errors import FlowlitError
from ...ranges import Checked
from .base import networks


class Compile(Checked, Callback):
    """Compile the networks by ``torch.compile``, in place: names of weights, checkpoints and copies stay as
    they are.

    A network is compiled when it is first called, and again for another mode (training, generation) and for a
    second size of batch, which takes up to a minute each time on a CPU; the graph of the second size serves
    all further ones. Made for long runs on a GPU.

    Args:
        mode: of ``torch.compile``; None is its default. Those with CUDA graphs are not offered: they reuse
            the memory of a velocity at the next call, while solvers hold several.
        dynamic: whether graphs serve any size of batch from the start; None finds out.
        graphs: launch the trained network's forward and backward pass by CUDA graphs, in the first call of
            each training step; for small networks and batches on an NVIDIA GPU, not with ``fsdp`` or
            accumulated batches. ``CUDAGraphs`` is for the rest.
    """

    def __init__(
        self,
        mode: Literal["default", "max-autotune-no-cudagraphs"] | None = None,
        dynamic: bool | None = None,
        graphs: bool = False,
    ):
        self.mode = mode
        self.dynamic = dynamic
        self.graphs = graphs
        self._compiled: WeakSet[nn.Module] = WeakSet()
        self._trained: FirstCallGraphed | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse graphs of training where they cannot be.

        Raises:
            FlowlitError: saying what to do.
        """
        if not self.graphs or stage != "fit":
            return
        check_graphs(trainer, "Compile")
        if global_batches(trainer) > 1:
            raise FlowlitError(
                "Compile: graphs are of one network's training step, and here two are trained in turns; "
                "leave graphs out"
            )
        check_accumulation(trainer)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.strategy.root_device.type == "cpu":
            check_compiler()
        for network in networks(trainer, pl_module):
            if network not in self._compiled:
                network.compile(mode=self.mode, dynamic=self.dynamic)
                self._compiled.add(network)
        if self.graphs and trainer.state.fn == "fit":
            self._use_graphs(pl_module.network)  # type: ignore[arg-type]

    def _use_graphs(self, network: nn.Module) -> None:
        if self._trained is None or self._trained.network is not network:
            self._trained = FirstCallGraphed(network, GRAPHED[self.mode or "default"], self.dynamic)
            network._compiled_call_impl = self._trained  # type: ignore[assignment]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._trained is not None:
            check_accumulation(trainer)  # a scheduler may have changed it
            self._trained.begin()

    on_validation_start = on_test_start = on_predict_start = on_fit_start


GRAPHED = {"default": "reduce-overhead", "max-autotune-no-cudagraphs": "max-autotune"}
"""Modes of ``torch.compile``, and the same with CUDA graphs."""


def check_graphs(trainer: pl.Trainer, callback: str) -> None:
    """Refuse CUDA graphs where there are none, and where weights do not stay where they read them.

    Raises:
        FlowlitError: saying what to do.
    """
    check_device(trainer.strategy.root_device)
    if isinstance(trainer.strategy, Sharded):
        raise FlowlitError(
            f"{callback}: graphs read weights where they lie, but those of a sharded network move; use ddp"
        )


def check_accumulation(trainer: pl.Trainer) -> None:
    """Refuse to accumulate gradients that graphs overwrite.

    Raises:
        FlowlitError: saying what to do.
    """
    if trainer.accumulate_grad_batches > 1:
        raise FlowlitError(
            "Compile: graphs overwrite the gradients of the batch before, and "
            f"{trainer.accumulate_grad_batches} batches are accumulated; raise data.device_batch_size, or "
            "leave graphs out"
        )


def check_compiler() -> None:
    """Look for the C++ compiler that ``torch.compile`` calls for a CPU.

    Raises:
        FlowlitError: if it is not there.
    """
    name = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(name) is None:
        raise FlowlitError(
            f"Compile: found no C++ compiler {name}, which torch.compile needs on a CPU; install it, name "
            "another by the environment's CXX, or leave the callback Compile out"
        )
