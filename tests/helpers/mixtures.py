"""The exact velocity of a mixture of Gaussians, its solution by a fine solver, and orders of convergence."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from flowlit.solvers.base import march
from flowlit.solvers.runge_kutta import rk4_step


class Mixture:
    """v = E[x1 - x0 | x_t] for x1 from Gaussians of a common width, independent of x0: a 1-rectified flow."""

    def __init__(self, num=3, dim=2, std=0.4, seed=0):
        draws = torch.Generator().manual_seed(seed)
        self.means = torch.rand(num, dim, generator=draws, dtype=torch.float64) * 2 - 1
        self.std = std
        self.mean = float(self.means.mean())

    def __call__(self, x, t, cond={}):
        flat = x.flatten(1)
        t = t.to(x.dtype)[:, None]
        means = self.means.to(x.dtype)
        variance = (t * self.std) ** 2 + (1 - t) ** 2
        logits = -((flat[:, None] - t[..., None] * means) ** 2).sum(-1) / (2 * variance)
        near = torch.softmax(logits, 1) @ means
        slope = (t * self.std**2 - (1 - t)) / variance
        return (near + slope * (flat - t * near)).reshape(x.shape)

    def start(self, batch=16, seed=1, dtype=torch.float64):
        draws = torch.Generator().manual_seed(seed)
        return torch.randn(batch, 1, 1, self.means.shape[1], generator=draws, dtype=torch.float64).to(dtype)


SMOOTH = Mixture()


def at(t, velocity=SMOOTH, steps=400):
    """A batch on its way, at t, from the fixed start."""
    return march(rk4_step, velocity, velocity.start(), np.linspace(0, t, steps + 1).tolist()).x1


@cache
def ends(begin, end):
    """Exact states of the smooth mixture at two times."""
    return tuple(SMOOTH.start() if t == 0 else at(t) for t in (begin, end))


def rmse(a, b):
    return float((a - b).square().mean().sqrt())


def order(solve, begin=0.0, end=1.0, steps=(32, 48, 64, 96)):
    """Slope of the error of ``solve(steps, start)`` on a log-log scale."""
    start, exact = ends(begin, end)
    errors = [rmse(solve(n, start), exact) for n in steps]
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


def uniform_log_snr(steps, begin=0.013, end=0.998):
    """Times uniform in λ."""
    levels = np.linspace(*(np.log(t / (1 - t)) for t in (begin, end)), steps + 1)
    times = (1 / (1 + np.exp(-levels))).tolist()
    return [begin, *times[1:-1], end]
