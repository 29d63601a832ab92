"""How straight a flow is."""

from __future__ import annotations

from torch import Tensor

from ..types import Cond, VelocityField
from .geometry import motion


def straightness(velocity: VelocityField, x0: Tensor, cond: Cond = {}, steps: int = 100) -> Tensor:
    """S = ∫ ‖(Z1 - Z0) - v(Z_t, t)‖² dt along simulated trajectories, per sample (B,), summed over pixels.

    0 if and only if one Euler step is exact. Liu et al. 2022, section 2.1; estimated on ``steps`` Euler steps, where Z1 - Z0 is
    the mean velocity. Divide by C·H·W for the value per dimension.
    """
    return motion(velocity, x0, cond, steps).deviation.mean(1) * x0[0].numel()
