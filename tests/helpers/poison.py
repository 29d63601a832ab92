"""Gradients and losses that go wrong at chosen steps."""

from __future__ import annotations

from pathlib import Path

import torch
from lightning.pytorch.callbacks import Callback


class Poison(Callback):
    """Spoils gradients, weights or the loss in some steps; in the first run only if a file to remember it by
    is given.
    """

    def __init__(
        self, steps: list[int], what: str = "gradients", value: float = float("nan"), once: str = ""
    ):
        self.steps, self.what, self.value, self.once = steps, what, value, once

    def now(self, trainer):
        if trainer.global_step not in self.steps or (
            self.once and Path(f"{self.once}.{trainer.global_step}").exists()
        ):
            return False
        if self.once and trainer.is_global_zero and trainer.world_size == 1:
            Path(f"{self.once}.{trainer.global_step}").touch()
        return True

    @torch.no_grad()
    def on_train_batch_start(self, trainer, module, *_):
        if self.what == "weights" and self.now(trainer):
            for parameter in module.network.parameters():
                parameter.mul_(self.value)

    def on_after_backward(self, trainer, module):
        if self.what == "gradients" and self.now(trainer):
            first = next(p for p in module.network.parameters() if p.grad is not None)
            first.grad.flatten()[:3] = self.value
