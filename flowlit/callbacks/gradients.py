"""Keep one bad gradient from ruining a run."""

from __future__ import annotations

from typing import Any, Literal

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from .loss_over_time import logging_now


def local(tensor: Tensor) -> Tensor:
    """The part of a sharded tensor that is here; any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def count_bad(gradients: list[Tensor]) -> Tensor:
    """Count entries that are not finite, over all shards."""
    bad = torch.stack([(~torch.isfinite(local(g))).sum() for g in gradients]).sum()
    if any(isinstance(g, DTensor) for g in gradients):
        dist.all_reduce(bad)
    return bad


@torch.no_grad()
def repair(gradients: list[Tensor], limit: float = 1e5) -> None:
    """Replace NaN by 0 and ±∞ by ±limit in place."""
    for g in gradients:
        torch.nan_to_num_(local(g), nan=0.0, posinf=limit, neginf=-limit)


class Gradients(Callback):
    """Repair non-finite gradients, or skip the step; clip their global norm; count and log what happened.

    The order matters: a single NaN would make the norm, and so every gradient, NaN. Use it instead of the trainer's
    ``gradient_clip_val``, which clips first (and does not go with fused optimizers under mixed precision). ``Rollback`` goes back
    when it happens too often.

    Args:
        clip: largest global norm; None does not clip.
        nonfinite: "repair" puts 0 for NaN and ±1e5 for ±∞, as the papers' code means to. "skip" leaves weights, optimizer and
            its moments as they are in this step; to know it, a GPU is waited for in every step.
    """

    def __init__(self, clip: float | None = 1.0, nonfinite: Literal["repair", "skip"] = "repair"):
        self.clip, self.nonfinite = clip, nonfinite
        self.bad_entries: Tensor | int = 0
        self.bad_steps: Tensor | int = 0

    def state_dict(self) -> dict[str, Any]:
        return {"bad_entries": int(self.bad_entries), "bad_steps": int(self.bad_steps)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.bad_entries, self.bad_steps = state_dict["bad_entries"], state_dict["bad_steps"]

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not parameters:
            return
        gradients = [p.grad for p in parameters]
        bad = count_bad(gradients)
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            bad = bad * 0  # overflows of float16: the loss scaler skips these steps, and looks for a scale
        self.bad_entries, self.bad_steps = bad + self.bad_entries, (bad > 0) + self.bad_steps
        if self.nonfinite == "skip" and bad > 0:
            for parameter in parameters:
                parameter.grad = None
        else:
            norm = self._clip(parameters, gradients)
            if logging_now(trainer):
                pl_module.log("gradients/norm", norm, batch_size=1)
        if logging_now(trainer):
            pl_module.log("gradients/bad_entries", float_of(self.bad_entries), batch_size=1)
            pl_module.log("gradients/bad_steps", float_of(self.bad_steps), batch_size=1)

    def _clip(self, parameters: list[Tensor], gradients: list[Tensor]) -> Tensor:
        """Repair and clip; the norm between the two."""
        repair(gradients)
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.clip, norm)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm


def float_of(count: Tensor | int) -> Tensor | float:
    """A count as Lightning logs it, without waiting for the device."""
    return count.float() if isinstance(count, Tensor) else float(count)
