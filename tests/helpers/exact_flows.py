"""What several tests share with ``solvers/test_solvers.py``."""

from __future__ import annotations

import math

import torch

from flowlit.paths import expand


def start(batch=4, seed=0, dtype=torch.float64):
    return torch.randn(batch, 1, 2, 3, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def curved(x, t, cond={}):
    """dx/dt = (1 + t) sin x: nonlinear and time-dependent."""
    return (1 + expand(t, x).to(x.dtype)) * torch.sin(x)


def curved_end(x0):
    """Solution of ``curved`` at t = 1."""
    return 2 * torch.atan(torch.tan(x0 / 2) * math.exp(1.5))


def by_rate(x, t, cond):
    """dx/dt = sin(rate t) - rate x, a field whose stiffness differs from sample to sample."""
    rate = expand(cond["rate"], x).to(x.dtype)
    return torch.sin(rate * expand(t, x)) - rate * x
