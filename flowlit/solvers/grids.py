"""Grids of times and of noise levels."""

from __future__ import annotations

from ..errors import FlowlitError


def time_grid(steps: int, rho: float = 1.0, reverse: bool = False) -> list[float]:
    """Return steps + 1 times from 0 to 1 (1 to 0 in reverse), t_i = (i / steps)^(1 / rho).

    rho = 1 is uniform, rho > 1 dense near data, rho < 1 dense near noise.

    >>> time_grid(4)
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    if steps < 1 or rho <= 0:
        raise FlowlitError(f"time grid: expected steps >= 1 and rho > 0, found steps={steps}, rho={rho}")
    grid = [(i / steps) ** (1 / rho) for i in range(steps + 1)]
    return grid[::-1] if reverse else grid


def sigma_grid(steps: int, sigma_min: float, sigma_max: float, rho: float) -> list[float]:
    """Return steps noise levels from sigma_max to sigma_min, uniform in σ^(1 / rho), and 0. Karras et al.
    2022, eq. 5.
    """
    first = sigma_max ** (1 / rho)
    last = sigma_min ** (1 / rho)
    return [(first + i / max(steps - 1, 1) * (last - first)) ** rho for i in range(steps)] + [0.0]
