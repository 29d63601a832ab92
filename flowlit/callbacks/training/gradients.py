"""Protection of a run from bad gradients."""

from __future__ import annotations

from typing import Any, Literal

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from ..._engine.lightning import is_logging_step
from ...ranges import Checked, PositiveFloat


def local(tensor: Tensor) -> Tensor:
    """Return this device's part of a sharded tensor of any shape, and any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class Entries:
    """Entries of gradients on this device; sharded gradients are counted over all devices.

    Args:
        gradients: dense tensors (…), changed in place by ``repair``.
        joined: work on one copy of them all, which on a GPU saves hundreds of kernels; None does so there.
    """

    def __init__(self, gradients: list[Tensor], joined: bool | None = None):
        here = [local(gradient) for gradient in gradients]
        self.sharded = any(isinstance(gradient, DTensor) for gradient in gradients)
        self.joined = here[0].is_cuda if joined is None else joined
        self.parts = [in_memory(part) for part in here] if self.joined else here
        self.pieces = [torch.cat(self.parts)] if self.joined else here

    @torch.no_grad()
    def count_bad(self) -> Tensor:
        """Count the entries that are not finite, (): their difference from themselves is not zero."""
        bad = torch.stack([(piece - piece).count_nonzero() for piece in self.pieces]).sum()
        if self.sharded:
            dist.all_reduce(bad)
        return bad

    @torch.no_grad()
    def repair(self, limit: float = 1e5) -> None:
        """Replace NaN by 0 and ±∞ by ±limit in place."""
        for piece in self.pieces:
            torch.nan_to_num_(piece, nan=0.0, posinf=limit, neginf=-limit)
        if self.joined:
            torch._foreach_copy_(self.parts, self.pieces[0].split([len(part) for part in self.parts]))


def in_memory(tensor: Tensor) -> Tensor:
    """Return the entries of a dense tensor (…) in the order of memory: a view (n,)."""
    return tensor.detach().permute(sorted(range(tensor.dim()), key=tensor.stride, reverse=True)).view(-1)


class Gradients(Checked, Callback):
    """Repair non-finite gradients, or skip the step; clip their global norm; count and log what happened.

    The order matters: a single NaN would make the norm, and so every gradient, NaN. Use it instead of the
    trainer's ``gradient_clip_val``, which clips once more (and does not go with fused optimizers under mixed
    precision). ``Rollback`` goes back when it happens too often. With a critic, each network has its own norm
    (``gradients/critic_norm``), and all bad entries count. ``gradients/clipped`` and
    ``gradients/critic_clipped`` are the shares of updates that were clipped, since they were last logged.

    Args:
        clip: largest global norm; None does not clip.
        nonfinite: "repair" puts 0 for NaN and ±1e5 for ±∞, as the papers' code means to. "skip" leaves
            weights, optimizer and its moments as they are in this step, and waits for a GPU in every step.
    """

    def __init__(self, clip: PositiveFloat | None = 1.0, nonfinite: Literal["repair", "skip"] = "repair"):
        self.clip = clip
        self.nonfinite = nonfinite
        self.bad_entries: Tensor | int = 0
        self.bad_steps: Tensor | int = 0
        self._norms: dict[str, Tensor] = {}
        self._clipped: dict[str, tuple[Tensor | int, int]] = {}
        """Updates that were clipped, and all updates, since they were last logged."""

    def state_dict(self) -> dict[str, Any]:
        clipped = {name: [int(some), of] for name, (some, of) in self._clipped.items()}
        return {
            "bad_entries": int(self.bad_entries),
            "bad_steps": int(self.bad_steps),
            "clipped": clipped,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.bad_entries = state_dict["bad_entries"]
        self.bad_steps = state_dict["bad_steps"]
        clipped = state_dict.get("clipped", {})
        self._clipped = {name: (some, of) for name, (some, of) in clipped.items()}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        limit = trainer.gradient_clip_val
        if stage == "fit" and self.clip is not None and limit:
            rank_zero_warn(
                f"gradients are clipped twice, by Gradients to a norm of {self.clip:g} and by "
                f"trainer.gradient_clip_val: {limit:g}; drop one of the two"
            )

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not parameters:
            return
        gradients = [p.grad for p in parameters]
        entries = Entries(gradients)
        bad = entries.count_bad()
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            bad = bad * 0  # overflows of float16: the loss scaler skips these steps, and looks for a scale
        self.bad_entries = bad + self.bad_entries
        self.bad_steps = (bad > 0) + self.bad_steps
        player = "" if optimizer is trainer.optimizers[0] else "critic_"
        norm = f"gradients/{player}norm"
        if self.nonfinite == "skip" and bad > 0:
            self._norms.pop(norm, None)
            for parameter in parameters:
                parameter.grad = None
        else:
            entries.repair()
            self._norms[norm] = self._clip(parameters, gradients)
            if self.clip is not None:
                some, of = self._clipped.get(player, (0, 0))
                self._clipped[player] = (self._norms[norm] > self.clip) + some, of + 1
        if is_logging_step(trainer):
            counts = {"bad_entries": self.bad_entries, "bad_steps": self.bad_steps}
            values = {f"gradients/{name}": float_of(count) for name, count in counts.items()}
            values |= {f"gradients/{who}clipped": some / of for who, (some, of) in self._clipped.items()}
            self._clipped = {}
            for name, value in {**self._norms, **values}.items():
                pl_module.log(name, value, batch_size=1)

    def _clip(self, parameters: list[Tensor], gradients: list[Tensor]) -> Tensor:
        """Clip gradients; return their norm () before that."""
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.clip, norm)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm


def float_of(count: Tensor | int) -> Tensor | float:
    """Return a count () as Lightning logs it, without waiting for the device."""
    return count.float() if isinstance(count, Tensor) else float(count)
