"""Teacher, reflow student and one-step student."""

from __future__ import annotations

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn

from ..objectives import AnnealedReflow, Distillation, RectifiedFlow
from ..solvers import Euler
from ..types import Codec, Objective, Solver
from .flow import FlowModule


class ReflowStudent(FlowModule):
    """A small network trained on a teacher's pairs by annealing reflow, from random initialisation.

    Arguments as ``FlowModule``; the objective is ``AnnealedReflow`` unless given. Needs the ``Anneal``
    callback, which moves ``objective.beta`` from 1 to 0.
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
        super().__init__(
            network, objective or AnnealedReflow(), optimizer, lr_scheduler, solvers, codec, weights
        )


class Teacher(FlowModule):
    """A 1-rectified flow, trained on independent noise and real images; it makes the couplings of what
    follows.

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
        super().__init__(
            network, objective or RectifiedFlow(), optimizer, lr_scheduler, solvers, codec, weights
        )


class OneStepStudent(FlowModule):
    """The slim student, distilled to one step: its first solver is a single Euler step, x0 + v(x0, 0).

    Arguments as ``FlowModule``; the objective is ``Distillation`` unless given (SlimFlow's total is
    ``Combined``). Start it from the small 2-rectified flow: ``network: {class_path:
    flowlit.networks.pretrained}``.
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
