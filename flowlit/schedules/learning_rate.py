"""Learning rates as functions of the optimizer step."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ..errors import FlowlitError


class WarmUp(LambdaLR):
    """Learning rate that rises linearly over ``steps``, then stays.

    With ``total`` it falls along half a cosine, to ``floor`` of the full rate at that step. The first step
    has 1 / steps of the full rate. A learning-rate scheduler for ``model.lr_scheduler``, stepped after every
    optimizer step; not a ``Schedule``.
    """

    def __init__(self, optimizer: Optimizer, steps: int, total: int | None = None, floor: float = 0.0):
        if not 0 <= floor < 1 or (floor and total is None):
            raise FlowlitError(
                f"WarmUp: floor is {floor} and total {total}; expected 0 up to 1, and a total to fall over"
            )

        def factor(step: int) -> float:
            rise = min(1.0, (step + 1) / max(1, steps))
            if total is None:
                return rise
            cosine = (1 + math.cos(math.pi * min(1.0, step / total))) / 2
            return rise * (floor + (1 - floor) * cosine)

        super().__init__(optimizer, factor)
