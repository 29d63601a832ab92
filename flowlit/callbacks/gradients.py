"""Keep one bad gradient from ruining a run."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer


@torch.no_grad()
def repair(gradients: list[Tensor], limit: float = 1e5) -> Tensor:
    """Replace NaN by 0 and ±∞ by ±limit in place; return how many entries there were."""
    bad = torch.stack([(~torch.isfinite(g)).sum() for g in gradients]).sum()
    for g in gradients:
        torch.nan_to_num_(g, nan=0.0, posinf=limit, neginf=-limit)
    return bad


class Gradients(Callback):
    """Repair non-finite gradients, then clip their global norm; both are logged.

    The order matters: a single NaN would make the norm, and so every gradient, NaN. Use it instead of the trainer's
    ``gradient_clip_val``, which clips first (and does not go with fused optimizers under mixed precision).

    Args:
        clip: largest global norm; None only repairs.
    """

    def __init__(self, clip: float | None = 1.0):
        self.clip = clip
        self.repaired: Tensor | float = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"repaired": float(self.repaired)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.repaired = state_dict["repaired"]

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not gradients:
            return
        self.repaired = repair(gradients) + self.repaired
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.clip is not None:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grads_with_norm_(parameters, self.clip, norm)
        pl_module.log("gradients/norm", norm, batch_size=1)
        pl_module.log("gradients/repaired", self.repaired, batch_size=1)
