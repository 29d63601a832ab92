"""Exact ways from noise to data at the times of a fine grid, as inner products of their states and
velocities.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ...types import Observer


class Paths:
    """Inner products of states x_0 … x_M and velocities v_0 … v_{M-1} of exact ways, summed over samples.

    They are all that the error of a step between exact states depends on. So a path need not stay in memory,
    and errors of a hundred thousand steps cost no evaluation.

    Args:
        times: t_0 = 0 … t_M = 1.
    """

    def __init__(self, times: Sequence[float]):
        self.times = list(times)
        self.intervals = len(times) - 1
        size = 2 * self.intervals + 1
        self.gram = np.zeros((size, size))
        self.numbers = 0

    def add(self, x: Tensor, v: Tensor) -> None:
        """Add samples: states (M + 1, B, …) and velocities (M, B, …)."""
        rows = torch.cat([x, v]).flatten(1).double().cpu().numpy()
        self.gram += rows @ rows.T
        self.numbers += rows.shape[1]

    def error(self, states: dict[int, float], velocities: dict[int, float]) -> float:
        """Return the root mean square of a linear combination of states and velocities, by their indices."""
        places = [*states, *(self.intervals + 1 + i for i in velocities)]
        weights = np.array([*states.values(), *velocities.values()])
        square = weights @ self.gram[np.ix_(places, places)] @ weights
        return float(np.sqrt(max(square, 0.0) / self.numbers))


def follow(run: Callable[[Observer], Tensor]) -> tuple[Tensor, Tensor]:
    """Return the states (M + 1, B, …) and the velocities (M, B, …) of M steps.

    Args:
        run: calls a solver with an observer, and returns its end (B, …).
    """
    states: list[Tensor] = []
    velocities: list[Tensor] = []

    def observe(t: Tensor, x: Tensor, v: Tensor) -> None:
        states.append(x)
        velocities.append(v)

    end = run(observe)
    return torch.stack([*states, end]), torch.stack(velocities)
