"""An average of weights beside its network: how it moves, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..._support.names import public_path
from ...networks.checkpoints.spec import spec
from ...schedules.averages import Constant
from ...types import EMAProfile


@dataclass
class PendingUpdate:
    """Optimizer steps since an average was moved, and the share of it that stays after them."""

    steps: int = 0
    decay: float = 1.0

    def add(self, decay: float) -> None:
        """Add one more step."""
        self.steps = self.steps + 1
        self.decay = self.decay * decay


class AveragedWeights:
    """An average and its network, whose weights are looked up once.

    The step of a small network takes hardly longer than the search.
    """

    def __init__(self, average: nn.Module, network: nn.Module):
        self.averaged: list[Tensor] = list(average.parameters())
        self.trained: list[Tensor] = list(network.parameters())
        self.buffers = list(zip(buffers_of(average), buffers_of(network), strict=True))

    def move(self, decay: float) -> None:
        """Set average <- decay · average + (1 - decay) · network, and copy the buffers."""
        torch._foreach_lerp_(self.averaged, self.trained, 1 - decay)
        for (averaged, name), (trained, same) in self.buffers:
            averaged[name].copy_(trained[same])


def buffers_of(network: nn.Module) -> list[tuple[dict[str, Any], str]]:
    """Return the dictionaries that have buffers, and the names there: another tensor may take their place."""
    return [
        (module._buffers, name)
        for module in network.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]


def describe(profile: EMAProfile) -> dict[str, Any]:
    """Return a profile for checkpoints and reports; of decay and warmup these two alone."""
    if type(profile) is Constant:
        return {"decay": profile.decay, "warmup": profile.warmup}
    return {"profile": public_path(type(profile)), **((spec(profile) or {}).get("init_args") or {})}


def remove_snapshots(folder: Path, name: str, updates: int) -> None:
    """Remove the snapshots of an average from beyond its updates, whose steps are taken once more.

    If there were no updates yet, those of all averages are of an earlier run, and go.
    """
    for file in folder.glob("*-????????.safetensors"):
        if not updates or (file.stem[:-9] == name and int(file.stem[-8:]) > updates):
            file.unlink()
