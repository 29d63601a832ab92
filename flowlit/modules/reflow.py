"""Stage 3: the small 2-rectified flow."""

from __future__ import annotations

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn

from ..objectives import AnnealedReflow
from ..types import Codec, Objective, Solver
from .base import FlowModule


class ReflowStudent(FlowModule):
    """A small network trained on a teacher's pairs by annealing reflow, from random initialisation.

    Arguments as ``FlowModule``; the objective is ``AnnealedReflow`` unless given. Needs the ``Anneal`` callback, which moves
    ``objective.beta`` from 1 to 0.
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
        super().__init__(network, objective or AnnealedReflow(), optimizer, lr_scheduler, solvers, codec, weights)
