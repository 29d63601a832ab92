"""Average the trained weights."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback


def ema_decay(decay: float, updates: int, warmup: bool = True) -> float:
    """Return min(decay, (1 + n) / (10 + n)) for the n-th update, n from 1; without warm-up, decay.

    The rule of the papers' reference code: with decay 0.999999 it is in effect a power-law average over the last n / 9 steps.

    >>> ema_decay(0.999, 1)
    0.18181818181818182
    """
    return min(decay, (1 + updates) / (10 + updates)) if warmup else decay


class EMA(Callback):
    """Move ``module.ema`` towards ``module.network`` after every optimizer step.

    Args:
        decay: 0.999999 in SlimFlow and Rectified Flow on CIFAR-10; shorter for short runs.
        warmup: cap it by (1 + n) / (10 + n), n counted from 1 in each run.
    """

    def __init__(self, decay: float = 0.999999, warmup: bool = True):
        self.decay, self.warmup = decay, warmup

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        pl_module.ema_profile = {"decay": self.decay, "warmup": self.warmup}

    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == pl_module.ema_updates:
            return  # no optimizer step: gradients are still accumulating
        pl_module.ema_updates = trainer.global_step
        decay = ema_decay(self.decay, pl_module.ema_updates, self.warmup)
        average, network = list(pl_module.ema.parameters()), list(pl_module.network.parameters())
        torch._foreach_lerp_(average, network, 1 - decay)
        for ours, theirs in zip(pl_module.ema.buffers(), pl_module.network.buffers(), strict=True):
            ours.copy_(theirs)
        pl_module.log("anneal/ema_decay", decay, batch_size=1)
