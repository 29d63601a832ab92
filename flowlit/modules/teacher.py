"""Stage 1: the teacher."""

from __future__ import annotations

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn

from ..objectives import RectifiedFlow
from ..types import Codec, Objective, Solver
from .base import FlowModule


class Teacher(FlowModule):
    """A 1-rectified flow, trained on independent noise and real images; it makes the couplings of what follows.

    Arguments as ``FlowModule``; the objective is ``RectifiedFlow`` unless given.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective | None = None,
        optimizer: OptimizerCallable = lambda p: torch.optim.Adam(p, lr=2e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
        solvers: dict[str, Solver] | None = None,
        codec: Codec | None = None,
        weights: str = "ema",
    ):
        super().__init__(network, objective or RectifiedFlow(), optimizer, lr_scheduler, solvers, codec, weights)
