"""Memory formats, and activations that are computed again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer

from ...networks.activation_checkpointing import recompute
from ...ranges import Checked
from .base import networks


class ChannelsLast(Checked, Callback):
    """Store the weights of convolutions with their channels last, as tensor cores take them.

    Images need no conversion: a convolution with such weights returns channels-last images, and the next
    layers keep that. Made for GPUs under ``bf16-mixed``; on a CPU it depends (docs/knobs.md). Values are
    unchanged, and so are checkpoints, which are written in the usual order.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        for network in networks(trainer, pl_module):
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Have a checkpoint's optimizer state, which comes in the usual order, follow the weights."""
        for optimizer in trainer.optimizers:
            optimizer.register_load_state_dict_post_hook(align)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["state_dict"] = contiguous(checkpoint["state_dict"])
        for saved in checkpoint["optimizer_states"]:
            saved["state"] = {number: contiguous(state) for number, state in saved["state"].items()}


def contiguous(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return tensors in the usual order of memory, and everything else as it is."""
    return {key: value.contiguous() if isinstance(value, Tensor) else value for key, value in state.items()}


def align(optimizer: Optimizer) -> None:
    """Give the state of each parameter its order in memory, which fused optimizers take for granted."""
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if (
                isinstance(value, Tensor)
                and value.shape == parameter.shape
                and value.stride() != parameter.stride()
            ):
                state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


class ActivationCheckpointing(Checked, Callback):
    """Keep only the inputs of each stage of the trained network, and compute the stage again in backward.

    Use it for networks, or batches, that do not fit in memory: activations fall to a fraction, and the step
    takes longer by about one evaluation of the network. Losses, gradients and weights are the
    same bits as without, also with dropout and under bf16. For UNet, ADM and DiT, also inside wrappers.
    Averages, guides and teachers keep nothing anyway.
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        recompute(pl_module.network)

    def teardown(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            recompute(pl_module.network, on=False)
