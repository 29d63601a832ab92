"""How straight a flow is."""

from __future__ import annotations

import torch
from torch import Tensor

from ..solvers import Euler
from ..types import Cond, VelocityField


def straightness(velocity: VelocityField, x0: Tensor, cond: Cond = {}, steps: int = 100) -> Tensor:
    """S = ∫ ‖(Z1 - Z0) - v(Z_t, t)‖² dt along simulated trajectories, per sample (B,), summed over pixels.

    0 if and only if one Euler step is exact. Liu et al. 2022, section 2.1; estimated on ``steps`` Euler steps, where Z1 - Z0 is
    the mean velocity, so that S = mean ‖v‖² - ‖mean v‖². Divide by C·H·W for the value per dimension.
    """
    total = torch.zeros_like(x0, dtype=torch.float64)
    squares = torch.zeros(len(x0), dtype=torch.float64, device=x0.device)

    def observe(t: Tensor, x: Tensor, v: Tensor) -> None:
        total.add_(v.double() / steps)
        squares.add_(v.double().flatten(1).square().sum(1) / steps)

    Euler(steps)(velocity, x0, cond, observe=observe)
    return (squares - total.flatten(1).square().sum(1)).clamp_min(0)
