"""Gaussian flows and linear generators in one dimension, with expectations by quadrature."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flowlit.types import Pair


class Gaussian(NamedTuple):
    """N(mean, std²) at the data end, with the velocity of its 1-rectified flow."""

    mean: Tensor
    std: Tensor

    def variance(self, t: Tensor) -> Tensor:
        return (1 - t) ** 2 + (t * self.std) ** 2

    def __call__(self, x: Tensor, t: Tensor, cond=None) -> Tensor:
        t = t.reshape(-1, 1, 1, 1)
        slope = (t * self.std**2 - (1 - t)) / self.variance(t)
        return self.mean + slope * (x - t * self.mean)


def gaussian(mean: float, std: float, trained: bool = False) -> Gaussian:
    values = (torch.tensor(value, dtype=torch.float64, requires_grad=trained) for value in (mean, std))
    return Gaussian(*values)


def nodes(n: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    """Return z, ε (n², 1, 1, 1) and weights (n²,) for expectations over two independent N(0, 1)."""
    points, weights = np.polynomial.hermite_e.hermegauss(n)
    z, noise = (torch.tensor(grid).reshape(-1, 1, 1, 1) for grid in np.meshgrid(points, points))
    return z, noise, torch.tensor(np.outer(weights, weights).ravel() / (2 * np.pi))


def linear_pair(generator: Gaussian, z: Tensor, noise: Tensor) -> Pair:
    """Return (ε, x) for the samples x = std z + mean of a linear generator."""
    return Pair(noise, generator.std * z + generator.mean)


def kl(one: Gaussian, other: Gaussian, t: Tensor) -> Tensor:
    """Return KL of two noised Gaussians at t ()."""
    ratio = one.variance(t) / other.variance(t)
    shift = (t * (one.mean - other.mean)) ** 2 / other.variance(t)
    return (ratio + shift - 1 - ratio.log()) / 2
