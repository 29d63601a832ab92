"""Ways between noises, on which noise stays as likely as it was."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .straight import expand


def interpolate_noise(a: Tensor, b: Tensor, alpha: Tensor) -> Tensor:
    """cos(π α / 2) a + sin(π α / 2) b for α (B,) in [0, 1]: N(0, I) if a and b (B, ...) are independent so.

    Not to be confused with ``interpolate``, whose straight line between two noises leaves the
    sphere that noise lies on.
    """
    angle = expand(alpha, a) * (math.pi / 2)
    return torch.cos(angle) * a + torch.sin(angle) * b
