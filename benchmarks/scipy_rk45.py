"""The same ODE by flowlit's RK45 and by SciPy's, counted alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn

from flowlit.solvers import rk45


class Endpoint(NamedTuple):
    """Where a solver arrived, and what it cost."""

    x1: Tensor
    seconds: float
    calls: int  # of the network, each with a batch
    evaluations: int  # samples in all calls


class Counter:
    """A velocity that counts calls, and samples in them."""

    def __init__(self, velocity: nn.Module):
        self.velocity, self.calls, self.evaluations = velocity, 0, 0

    def __call__(self, x: Tensor, t: Tensor, cond: Any = {}) -> Tensor:
        self.calls += 1
        self.evaluations += len(x)
        return self.velocity(x, t, cond)


def flowlit_rk45(velocity: nn.Module, x0: Tensor, tolerance: float) -> Endpoint:
    """Each sample with a step size of its own; those that have arrived leave the batch."""
    return _timed(velocity, lambda v: rk45(v, x0, rtol=tolerance, atol=tolerance).x1)


def scipy_rk45(velocity: nn.Module, x0: Tensor, tolerance: float) -> Endpoint:
    """One step size for the flattened batch, through NumPy, as research code does it."""
    return _timed(velocity, lambda v: on_the_whole_batch(v, x0, "RK45", tolerance))


def reference(velocity: nn.Module, x0: Tensor, tolerance: float) -> Tensor:
    """A much finer solution in float64, by SciPy's method of order 8: neither contender judges itself."""
    exact = deepcopy(velocity).double()
    with torch.no_grad():
        return on_the_whole_batch(exact, x0.double(), "DOP853", tolerance)


def _timed(velocity: nn.Module, solve: Callable[[Counter], Tensor]) -> Endpoint:
    counter, begin = Counter(velocity), time.perf_counter()
    with torch.no_grad():
        x1 = solve(counter)
    return Endpoint(x1, time.perf_counter() - begin, counter.calls, counter.evaluations)


def on_the_whole_batch(velocity: Any, x0: Tensor, method: str, tolerance: float) -> Tensor:
    """The flattened batch as one system, through NumPy and back at each call; the end is float64, on the
    CPU.
    """

    def right(t: float, flat: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(flat).to(x0).reshape(x0.shape)
        return velocity(x, x.new_full((len(x),), t)).cpu().numpy().reshape(-1).astype(np.float64)

    found = solve_ivp(
        right, (0.0, 1.0), x0.cpu().numpy().reshape(-1), method=method, rtol=tolerance, atol=tolerance
    )
    if not found.success:
        raise RuntimeError(found.message)
    return torch.from_numpy(found.y[:, -1]).reshape(x0.shape)
