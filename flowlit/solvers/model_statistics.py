"""Statistics of a velocity along its path, from which DPM-Solver-v3 makes its prediction.

Zheng et al. 2023 (2310.13268), on the straight path: l takes the Jacobian's diagonal out of f = (σ ẑ - l x) /
α, then s and b are the line by which df/dλ depends on f.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import FlowlitError
from ..paths.straight import interpolate
from ..ranges import Checked
from ..types import Cond, VelocityField
from .exponential import log_snr

SMOOTH = 240
"""Nodes for each one of the half-width of dl/dλ's moving average: 5 of 1,200 in the paper's code."""

FLAT = 1e-6
"""Share of its parts' variance below which f counts as constant, as it is for Gaussian data."""


class Coefficients(NamedTuple):
    """l, s and b, each (nodes, C, H, W) float64, at nodes uniform in λ from a margin to 1 - margin."""

    l: Tensor  # noqa: E741
    s: Tensor
    b: Tensor
    margin: float

    def levels(self) -> Tensor:
        """Return λ of each node, of shape (n,)."""
        last = -log_snr(self.margin)
        return torch.linspace(-last, last, len(self.l), dtype=torch.float64)


class ModelStatistics(Checked, ABC):
    """Source of the coefficients of a velocity."""

    @abstractmethod
    def coefficients(self, velocity: VelocityField) -> Coefficients:
        """Return l, s and b (nodes, C, H, W) for a velocity.

        Raises:
            FlowlitError: if they are those of another one.
        """


class Moments(NamedTuple):
    """Means over samples at one node, (C, H, W) float64 each."""

    jacobian: Tensor  # u ⊙ (J u)
    first: Tensor  # (3, C, H, W): of x, v, v̇
    second: Tensor  # (3, 3, C, H, W): of their products


Batches = Callable[[], Iterator[tuple[Tensor, Tensor, Tensor, Cond]]]
"""Noise, data and signs ±1, each (B, C, H, W), with conditions (B, …); the same ones at each call."""


def estimate(
    velocity: VelocityField,
    batches: Batches,
    nodes: int,
    margin: float,
    progress: Callable[[list[float]], Iterator[float]] = iter,  # type: ignore[assignment]
) -> Coefficients:
    """Return the coefficients of a velocity, from the same noise, data and signs at every node.

    Four evaluations a sample and node give the velocity's derivatives, by central differences.

    Args:
        velocity: whose they are.
        batches: samples (B, C, H, W).
        nodes: of the grid in λ, at least 3.
        margin: distance of its ends to 0 and 1.
        progress: shows how far the nodes are.
    """
    blank = torch.zeros(nodes, 1, 1, 1)
    times = torch.sigmoid(Coefficients(blank, blank, blank, margin).levels()).tolist()
    return fit([moments(velocity, batches(), t) for t in progress(times)], times, margin)


def moments(
    velocity: VelocityField, batches: Iterator[tuple[Tensor, Tensor, Tensor, Cond]], t: float
) -> Moments:
    """Return the means at t over batches (B, C, H, W), in float64."""
    total = 0
    jacobian: Tensor | float = 0.0
    first: Tensor | float = 0.0
    second: Tensor | float = 0.0
    for z, data, u, cond in batches:
        at = z.new_full((len(z),), t)
        x = interpolate(z, data, at)
        step = 1e-5 if x.dtype == torch.float64 else 1e-3
        v = velocity(x, at.float(), cond).to(x.dtype)
        turned = _slope(velocity, x, t, u, 0.0, step, cond)
        moved = _slope(velocity, x, t, v, 1.0, min(step, 0.5 * t, 0.5 * (1 - t)), cond)
        parts = torch.stack([x, v, moved]).double()
        jacobian = jacobian + (u * turned).double().sum(0)
        first = first + parts.sum(1)
        second = second + torch.einsum("ib...,jb...->ij...", parts, parts)
        total += len(z)
    if not isinstance(first, Tensor) or not isinstance(second, Tensor):
        raise FlowlitError("statistics: there are no samples; expected some")
    return Moments(torch.as_tensor(jacobian) / total, first / total, second / total)


def _slope(
    velocity: VelocityField, x: Tensor, t: float, towards: Tensor, rate: float, step: float, cond: Cond
) -> Tensor:
    """Return the derivative (B, C, H, W) of the velocity towards a direction of x and a rate of t."""
    ahead = x.new_full((len(x),), t + rate * step).float()
    behind = x.new_full((len(x),), t - rate * step).float()
    width = 2 * step if rate == 0 else float(ahead[0].double() - behind[0].double())
    up = velocity(x + width / 2 * towards, ahead, cond).to(x.dtype)
    return (up - velocity(x - width / 2 * towards, behind, cond).to(x.dtype)) / width


def fit(measured: list[Moments], times: list[float], margin: float) -> Coefficients:
    """Return l, s and b (nodes, C, H, W) from the means at each node."""
    t = torch.tensor(times, dtype=torch.float64, device=measured[0].first.device).reshape(-1, 1, 1, 1)
    level = (1 - t) * (1 - t * torch.stack([m.jacobian for m in measured]))
    slope = _derivative(level, 2 * -log_snr(margin) / (len(times) - 1))
    first = torch.stack([m.first for m in measured])
    covariance = torch.stack([m.second for m in measured]) - first[:, :, None] * first[:, None]
    zero = torch.zeros_like(level)
    f = torch.stack([(1 - t - level) / t, zero - (1 - t), zero], 1)
    rate = (1 - t) / t * (level - 1)
    ahead = torch.stack([rate - slope / t, -t * rate, zero - t * (1 - t) ** 2], 1)
    joint = torch.einsum("ni...,nij...,nj...->n...", f, covariance, ahead)
    variance = torch.einsum("ni...,nij...,nj...->n...", f, covariance, f)
    parts = sum(f[:, i] ** 2 * covariance[:, i, i] for i in range(3))
    s = torch.where(variance > FLAT * parts, joint / variance.clamp_min(1e-300), zero)
    b = (ahead * first).sum(1) - s * (f * first).sum(1)
    return Coefficients(level, s, b, margin)


def _derivative(values: Tensor, step: float) -> Tensor:
    """Return the derivative of values (nodes, C, H, W) along the nodes, smoothed."""
    slope = torch.gradient(values, spacing=step, dim=0)[0]
    ahead = torch.cat([torch.zeros_like(slope[:1]), slope.cumsum(0)])
    places = range(len(slope))
    width = len(slope) // SMOOTH
    rows = [(max(i - width, 0), min(i + width + 1, len(slope))) for i in places]
    return torch.stack([(ahead[last] - ahead[begin]) / (last - begin) for begin, last in rows])


def nearest(t: float, coefficients: Coefficients) -> int:
    """Return the node of the grid in λ that is nearest to a time, 0 < t < 1.

    Raises:
        FlowlitError: if the time is outside of the grid, by more than half of the distance of two nodes.
    """
    last = -log_snr(coefficients.margin)
    node = round((log_snr(t) + last) / (2 * last) * (len(coefficients.l) - 1))
    if not 0 <= node < len(coefficients.l):
        margin = coefficients.margin
        raise FlowlitError(
            f"statistics: time {t:.4g} is outside of their range, {margin:.4g} to {1 - margin:.4g}; take "
            f"fewer steps, another grid, or flowlit statistics --margin {min(t, 1 - t) / 2:.1g}"
        )
    return node
