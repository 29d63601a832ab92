"""How the same arithmetic is done faster, or in less memory: TF32, channels-last order, compiled networks, recomputation."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Literal
from weakref import WeakSet

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.optim import Optimizer

from ..frozen import Frozen
from ..graphs import FirstOfStep, check_device
from ..networks.recompute import recompute
from ..strategies import Sharded
from ..types import FlowlitError, Objective


def networks(trainer: pl.Trainer, module: Any) -> Iterator[nn.Module]:
    """The velocities at work: the trained network, its averages, and the frozen teachers and guides of objective and coupling."""
    flow = getattr(module, "flow", module)  # that of a ``PairMaker``
    yield flow.network
    yield from (
        average for average in (getattr(flow, "ema", None), *getattr(flow, "averages", {}).values()) if average is not None
    )
    coupling = getattr(getattr(trainer, "datamodule", None), "coupling", None)
    for holder in (coupling, *(part for part in flow.modules() if isinstance(part, Objective))):
        yield from (held.network for held in getattr(holder, "__dict__", {}).values() if isinstance(held, Frozen))


class MatmulPrecision(Callback):
    """Choose how a GPU multiplies float32 numbers, in matrix products and convolutions; no effect on a CPU.

    Without it PyTorch takes float32 for products, but TF32 (10 bits of mantissa instead of 23) for convolutions. Weights,
    averages and the optimizer stay float32. What was set before is set again afterwards.

    Args:
        precision: "highest" is float32 for both, "high" TF32 for both, "medium" allows bfloat16 in products.
    """

    def __init__(self, precision: Literal["highest", "high", "medium"] = "high"):
        self.precision = precision
        self._before: tuple[str, bool] | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self._before is None:
            self._before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        _set_precision(self.precision, self.precision != "highest")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._restore()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._restore()

    def _restore(self) -> None:
        if self._before is not None:
            _set_precision(*self._before)
            self._before = None


def _set_precision(products: str, convolutions: bool) -> None:
    torch.set_float32_matmul_precision(products)
    torch.backends.cudnn.allow_tf32 = convolutions


class ChannelsLast(Callback):
    """Hold the weights of convolutions with their channels last, the order in which tensor cores take them.

    Images need no conversion: a convolution whose weights are so returns channels-last images, and the next layers keep that.
    Made for GPUs under ``bf16-mixed``; on our CPU it changed nothing. Values are unchanged, and so are checkpoints, which are
    written in the usual order.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        for network in networks(trainer, pl_module):
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A checkpoint will bring the optimizer's state in the order in which it was written."""
        for optimizer in trainer.optimizers:
            optimizer.register_load_state_dict_post_hook(align)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = contiguous(checkpoint["state_dict"])
        for told in checkpoint["optimizer_states"]:
            told["state"] = {number: contiguous(state) for number, state in told["state"].items()}


def contiguous(state: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors in the usual order of memory, and everything else as it is."""
    return {key: value.contiguous() if isinstance(value, Tensor) else value for key, value in state.items()}


def align(optimizer: Optimizer) -> None:
    """Give the state of each parameter its order in memory, which fused optimizers take for granted."""
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


class Compile(Callback):
    """Compile the networks by ``torch.compile``, in place: names of weights, checkpoints and copies stay as they are.

    A network is compiled when it is first called, and again for another mode (training, generation) and for a second size of
    batch, which takes up to a minute each time on a CPU; the graph of the second size serves all further ones. Made for long
    runs on a GPU.

    Args:
        mode: of ``torch.compile``; None is its default. Those with CUDA graphs are not offered: they reuse the memory of a
            velocity at the next call, while solvers hold several.
        dynamic: whether graphs serve any size of batch from the start; None finds out.
        graphs: launch the trained network's forward and backward pass by CUDA graphs, in the first call of each training step;
            for small networks and batches on an NVIDIA GPU, not with ``fsdp`` or accumulated batches. ``Graphs`` is for the rest.
    """

    def __init__(
        self,
        mode: Literal["default", "max-autotune-no-cudagraphs"] | None = None,
        dynamic: bool | None = None,
        graphs: bool = False,
    ):
        self.mode, self.dynamic, self.graphs = mode, dynamic, graphs
        self._compiled: WeakSet[nn.Module] = WeakSet()
        self._trained: FirstOfStep | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse graphs of training where they cannot be.

        Raises:
            FlowlitError: saying what to do.
        """
        if not self.graphs or stage != "fit":
            return
        check_graphs(trainer, "Compile")
        check_accumulation(trainer)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.strategy.root_device.type == "cpu":
            check_compiler()
        for network in networks(trainer, pl_module):
            if network not in self._compiled:
                network.compile(mode=self.mode, dynamic=self.dynamic)
                self._compiled.add(network)
        if self.graphs and trainer.state.fn == "fit":
            self._ask_for_graphs(pl_module.network)  # type: ignore[arg-type]

    def _ask_for_graphs(self, network: nn.Module) -> None:
        if self._trained is None or self._trained.network is not network:
            self._trained = FirstOfStep(network, GRAPHED[self.mode or "default"], self.dynamic)
            network._compiled_call_impl = self._trained  # type: ignore[assignment]

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        if self._trained is not None:
            check_accumulation(trainer)  # a scheduler may have changed it
            self._trained.begin()

    on_validation_start = on_test_start = on_predict_start = on_fit_start


GRAPHED = {"default": "reduce-overhead", "max-autotune-no-cudagraphs": "max-autotune"}
"""Modes of ``torch.compile``, and the same with CUDA graphs."""


class Recompute(Callback):
    """Keep only the inputs of each stage of the trained network for the gradient, and compute the stage again in backward.

    Use it for networks, or batches, that do not fit in memory: what is kept of an image falls to a fraction, and the step takes
    longer by about one evaluation of the network. Losses, gradients and weights are the same bits as without, also with dropout
    and under bf16. For UNet, ADM and DiT, also inside wrappers. Averages, guides and teachers keep nothing anyway.
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        recompute(pl_module.network)

    def teardown(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            recompute(pl_module.network, on=False)


def check_graphs(trainer: pl.Trainer, callback: str) -> None:
    """Refuse CUDA graphs where there are none, and where weights do not stay where they read them.

    Raises:
        FlowlitError: saying what to do.
    """
    check_device(trainer.strategy.root_device)
    if isinstance(trainer.strategy, Sharded):
        raise FlowlitError(f"{callback}: graphs read weights where they lie, but those of a sharded network move; use ddp")


def check_accumulation(trainer: pl.Trainer) -> None:
    """Refuse to accumulate gradients that graphs overwrite.

    Raises:
        FlowlitError: saying what to do.
    """
    if trainer.accumulate_grad_batches > 1:
        raise FlowlitError(
            f"Compile: graphs overwrite the gradients of the batch before, and {trainer.accumulate_grad_batches} batches are "
            "accumulated; raise data.device_batch_size, or leave graphs out"
        )


def check_compiler() -> None:
    """Look for the C++ compiler that ``torch.compile`` calls for a CPU.

    Raises:
        FlowlitError: if it is not there.
    """
    name = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(name) is None:
        raise FlowlitError(
            f"Compile: found no C++ compiler {name}, which torch.compile needs on a CPU; install it, name another by the "
            "environment's CXX, or leave the callback Compile out"
        )
