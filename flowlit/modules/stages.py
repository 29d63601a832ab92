"""The three stages of a one-step generator: teacher, reflow student and one-step student."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..objectives import AnnealedReflow, Distillation, RectifiedFlow
from ..solvers import Euler
from ..types import Objective, Solver
from .flow import FlowModule


class Teacher(FlowModule):
    """A 1-rectified flow, trained on independent noise and real images; it makes the couplings of what
    follows.

    Arguments as ``FlowModule``; the objective is ``RectifiedFlow`` unless given.
    """

    def __init__(self, network: nn.Module, objective: Objective | None = None, **kwargs: Any):
        super().__init__(network, objective or RectifiedFlow(), **kwargs)


class ReflowStudent(FlowModule):
    """A small network trained on a teacher's pairs by annealing reflow, from random initialisation.

    Arguments as ``FlowModule``; the objective is ``AnnealedReflow`` unless given. Needs the ``Anneal``
    callback, which moves ``objective.beta`` from 1 to 0.
    """

    def __init__(self, network: nn.Module, objective: Objective | None = None, **kwargs: Any):
        super().__init__(network, objective or AnnealedReflow(), **kwargs)


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
        solvers: dict[str, Solver] | None = None,
        **kwargs: Any,
    ):
        one_step: dict[str, Solver] = {"euler1": Euler(1)} if solvers is None else solvers
        super().__init__(network, objective or Distillation(), solvers=one_step, **kwargs)
