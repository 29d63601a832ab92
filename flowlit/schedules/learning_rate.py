"""Learning rates as functions of the optimizer step."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ..errors import FlowlitError
from ..ranges import Checked, Fraction, NonNegativeInt, PositiveInt


class WarmUp(Checked, LambdaLR):
    """Learning rate that rises linearly over ``steps``, then stays.

    With ``total`` it falls along half a cosine, to ``floor`` of the full rate at that step. The first step
    has 1 / steps of the full rate. A generator that must wait until its critic follows it has ``wait`` steps
    at a rate of 0 before. A learning-rate scheduler for ``model.lr_scheduler``, stepped after every
    optimizer step; not a ``Schedule``.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        steps: NonNegativeInt,
        total: PositiveInt | None = None,
        floor: Fraction = 0.0,
        wait: NonNegativeInt = 0,
    ):
        if floor and total is None:
            raise FlowlitError(f"WarmUp: floor is {floor} and total {total}; expected a total to fall over")

        def factor(step: int) -> float:
            if step < wait:
                return 0.0
            rise = min(1.0, (step - wait + 1) / max(1, steps))
            if total is None:
                return rise
            cosine = (1 + math.cos(math.pi * min(1.0, step / total))) / 2
            return rise * (floor + (1 - floor) * cosine)

        super().__init__(optimizer, factor)
