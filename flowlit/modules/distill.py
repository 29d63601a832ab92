"""Stage 5: the one-step student."""

from __future__ import annotations

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn

from ..objectives import Distillation
from ..solvers import Euler
from ..types import Codec, Objective, Solver
from .base import FlowModule


class OneStepStudent(FlowModule):
    """The slim student, distilled to one step: its first solver is a single Euler step, x0 + v(x0, 0).

    Arguments as ``FlowModule``; the objective is ``Distillation`` unless given (SlimFlow's total is ``Combined``). Start it
    from the small 2-rectified flow: ``network: {class_path: flowlit.networks.pretrained}``.
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
        first = solvers or {"euler1": Euler(1)}
        super().__init__(network, objective or Distillation(), optimizer, lr_scheduler, first, codec, weights)
