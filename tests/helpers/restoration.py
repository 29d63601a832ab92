"""Restoration of a Gaussian image from its average pooling, in float64: every quantity in closed form.

x ~ N(μ, Σ) of 4×4 pixels, y = A x + n with 2×2 means A, c the replicated y, x0 = scale · c + σ ε.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from flowlit.paths import expand
from flowlit.types import Cond, Pair

SHAPE = (1, 4, 4)
DIM = 16


def replicate(y: Tensor) -> Tensor:
    return F.interpolate(y, scale_factor=2, mode="nearest")


def sigma_points(dim: int) -> Tensor:
    """Points (2 dim, dim) with mean 0 and covariance I: means of quadratic functions over them are exact."""
    points = dim**0.5 * torch.eye(dim, dtype=torch.float64)
    return torch.cat([points, -points])


class Restoration:
    """A velocity, exact for the straight path from x0 to x given c: (x, t, cond) -> (B, 1, 4, 4)."""

    def __init__(
        self, sigma: float = 0.2, scale: float = 0.9, noise: float = 0.1, pool: int = 2, seed: int = 0
    ):
        generator = torch.Generator().manual_seed(seed)
        self.mean, root = (
            torch.randn(*size, DIM, generator=generator, dtype=torch.float64) for size in ((), (DIM,))
        )
        self.root = root / DIM**0.5
        self.sigma = sigma
        self.scale = scale
        self.noise = noise
        self.pool = pool
        pixels = torch.eye(DIM, dtype=torch.float64).reshape(DIM, *SHAPE)
        self.pooling = F.avg_pool2d(pixels, pool).flatten(1).T
        covariance = self.root @ self.root.T
        measured = self.pooling @ covariance @ self.pooling.T
        measured = measured + noise**2 * torch.eye(len(measured), dtype=torch.float64)
        self.gain = covariance @ self.pooling.T @ torch.linalg.inv(measured)
        variances, self.axes = torch.linalg.eigh(covariance - self.gain @ self.pooling @ covariance)
        self.variances = variances.clamp_min(0)

    @property
    def least(self) -> float:
        """Least mean squared error, summed over pixels."""
        return float(self.variances.sum())

    def draw(self, points: Tensor) -> Pair:
        """Return the pairs of standard normal points (N, 16 + measurements + 16): for x, y and x0."""
        measurements = len(self.pooling)
        white, n, noise = points.split([DIM, measurements, DIM], 1)
        x = (self.mean + white @ self.root.T).reshape(-1, *SHAPE)
        y = F.avg_pool2d(x, self.pool).flatten(1) + self.noise * n
        side = SHAPE[1] // self.pool
        image = F.interpolate(y.reshape(-1, 1, side, side), scale_factor=self.pool, mode="nearest")
        x0 = self.scale * image + self.sigma * noise.reshape(-1, *SHAPE)
        return Pair(x0, x, {"image": image})

    def posterior(self, cond: Cond) -> Tensor:
        """Return E[x | y], (B, 1, 4, 4)."""
        y = F.avg_pool2d(cond["image"], self.pool).flatten(1)
        return (self.mean + (y - self.pooling @ self.mean) @ self.gain.T).reshape(-1, *SHAPE)

    def along(self, x: Tensor, factors: Tensor) -> Tensor:
        """Multiply x (B, 1, 4, 4) along the axes of the posterior by factors (B, 16)."""
        return ((x.flatten(1) @ self.axes * factors) @ self.axes.T).reshape(-1, *SHAPE)

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = {}) -> Tensor:
        t = t.double()
        mean = self.posterior(cond)
        start = self.scale * cond["image"]
        there = (1 - expand(t, x)) * start + expand(t, x) * mean
        t = t[:, None]
        slope = (t * self.variances - (1 - t) * self.sigma**2) / self._variance(t)
        return mean - start + self.along(x - there, slope)

    def _variance(self, t: Tensor) -> Tensor:
        return (1 - t) ** 2 * self.sigma**2 + t**2 * self.variances

    def flow(self, x0: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Return where the flow from x0 (B, 1, 4, 4) is at t (B,)."""
        start = self.scale * cond["image"]
        there = (1 - expand(t, x0)) * start + expand(t, x0) * self.posterior(cond)
        return there + self.along(x0 - start, self._variance(t.double()[:, None]).sqrt() / self.sigma)

    def average(self, x0: Tensor, t: Tensor, cond: Cond = {}) -> Tensor:
        """Return the average velocity (B, 1, 4, 4) from 0 to t (B,): the perfect student."""
        spread = self.spread(t) / self.sigma
        return self.posterior(cond) + self.along(x0 - self.scale * cond["image"], spread) - x0

    def spread(self, t: Tensor) -> Tensor:
        """Return g_t (B, 16), with which x0 + average = E[x | y] + G_t ε along the axes."""
        t = t.double()[:, None]
        rest = (1 - t) * self.sigma
        return t * self.variances / (self._variance(t).sqrt() + rest)
