"""Geometry of a flow: straightness, transport cost, curvature, and pictures of its trajectories."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from .._support.nested import rows_of
from ..errors import FlowlitError
from ..objectives.distances import per_sample
from ..paths.straight import endpoint
from ..solvers import Euler
from ..types import Cond, VelocityField
from .base import Sums


def straightness(velocity: VelocityField, x0: Tensor, cond: Cond = {}, steps: int = 100) -> Tensor:
    """S = ∫ ‖(Z1 - Z0) - v(Z_t, t)‖² dt along simulated trajectories, per sample (B,), summed over pixels.

    0 if and only if one Euler step is exact. Liu et al. 2022, section 2.1; estimated on ``steps`` Euler
    steps, where Z1 - Z0 is the mean velocity. Divide by C·H·W for the value per dimension.
    """
    return motion(velocity, x0, cond, steps).deviation.mean(1) * x0[0].numel()


_FLOATS = 1 << 25  # velocities kept at a time: 128 MiB


class Motion(NamedTuple):
    """Trajectories of B samples of d entries along N Euler steps, t_i = i / N; everything per dimension."""

    deviation: Tensor
    """(B, N) float64: ‖(Z1 - Z0) - v(Z_t, t)‖² / d at t = t_i."""
    acceleration: Tensor
    """(B, N - 1) float64: ‖d²Z/dt²‖² / d at t = t_i + 1 / 2N."""
    transport: Tensor
    """(B,) float64: ‖Z1 - Z0‖² / d."""


def velocities(velocity: VelocityField, x0: Tensor, cond: Cond = {}, steps: int = 100) -> Tensor:
    """Return v(Z_t, t) along ``steps`` Euler steps from x0, (steps, B, ...)."""
    out = x0.new_empty((steps, *x0.shape), dtype=torch.promote_types(x0.dtype, torch.float32))
    rows = iter(out)
    Euler(steps)(velocity, x0, cond, observe=lambda t, x, v: next(rows).copy_(v.detach()))
    return out


def displacement(v: Tensor) -> Tensor:
    """Z1 - Z0: the mean over the steps (N, B, ...) of Euler's velocity, (B, ...) float64."""
    total = torch.zeros_like(v[0], dtype=torch.float64)
    for each in v:
        total += each
    return total / len(v)


def deviation(v: Tensor) -> Tensor:
    """‖(Z1 - Z0) - v(Z_t, t)‖² / d at each step, (B, N), for velocities (N, B, ...).

    Its mean over t is S / d; Liu et al. 2022, section 2.1.
    """
    mean = displacement(v)
    return torch.stack([per_sample((mean - each) ** 2) for each in v], 1)


def acceleration(v: Tensor) -> Tensor:
    """‖d²Z/dt²‖² / d, (B, N - 1), by differences of velocities (N, B, ...) at the times in their middle."""
    return torch.stack([per_sample(((b.double() - a) * len(v)) ** 2) for a, b in itertools.pairwise(v)], 1)


def transport_cost(v: Tensor) -> Tensor:
    """‖Z1 - Z0‖² / d, (B,), for velocities (N, B, ...).

    Reflow must not raise its mean: Liu et al. 2022, theorem 3.5.
    """
    return per_sample(displacement(v) ** 2)


def motion(velocity: VelocityField, x0: Tensor, cond: Cond = {}, steps: int = 100) -> Motion:
    """Simulate once from x0 (B, ...), a few samples at a time, so that memory is bounded.

    Raises:
        FlowlitError: for fewer than three steps, whose acceleration is no curve.
    """
    if steps < 3:
        raise FlowlitError(f"the acceleration along a flow needs at least 3 steps, found steps={steps}")
    rows = max(1, _FLOATS // (steps * x0[0].numel()))
    parts = []
    for start in range(0, len(x0), rows):
        part = slice(start, start + rows)
        v = velocities(velocity, x0[part], rows_of(cond, part), steps)
        parts.append(Motion(deviation(v), acceleration(v), transport_cost(v)))
    return Motion(*map(torch.cat, zip(*parts, strict=True)))


class Curves(NamedTuple):
    """A flow's geometry, averaged over samples; everything per dimension, float64."""

    deviation: Tensor
    """(N,): E ‖(Z1 - Z0) - v(Z_t, t)‖² / d."""
    curvature: Tensor
    """(N - 1,): root mean square of d²Z/dt²."""
    transport: Tensor
    """(): E ‖Z1 - Z0‖² / d."""

    def times(self, curve: Tensor) -> Tensor:
        """Return the times of a curve (K,), (K,): deviations at the steps, curvatures in their middle."""
        steps = len(self.deviation)
        return (torch.arange(len(curve), dtype=torch.float64) + (steps - len(curve)) / 2) / steps

    @property
    def straightness(self) -> Tensor:
        """S / d, the integral of the deviation over t, ()."""
        return self.deviation.mean()

    @property
    def chord_error(self) -> Tensor:
        """Root mean square of (x0 + v(x0, 0)) - Z1, the error of one Euler step, ().

        It is the root of the deviation at t = 0.
        """
        return self.deviation[0].sqrt()


class MeanMotion(Sums):
    """The mean of ``Motion`` over samples, streaming and summed over ranks."""

    count: Tensor
    deviation: Tensor
    acceleration: Tensor
    transport: Tensor

    def __init__(self, steps: int) -> None:
        super().__init__(count=(), deviation=(steps,), acceleration=(steps - 1,), transport=())

    def update(self, motion: Motion) -> None:
        """Add the motion of some samples."""
        self.count += len(motion.transport)
        self.deviation += motion.deviation.sum(0)
        self.acceleration += motion.acceleration.sum(0)
        self.transport += motion.transport.sum()

    def compute(self) -> Curves:
        """Average squares over samples first; roots are taken of the averages."""
        return Curves(
            self.deviation / self.count, (self.acceleration / self.count).sqrt(), self.transport / self.count
        )


class Snapshots(NamedTuple):
    """Pictures of trajectories at K + 1 equally spaced times from 0 to 1."""

    x_t: Tensor
    """(B, K + 1, ...)."""
    endpoint: Tensor
    """(B, K + 1, ...): x_t + (1 - t) v(x_t, t), the end of a straight line from there; x_1 at t = 1."""


def snapshots(
    velocity: VelocityField, x0: Tensor, cond: Cond = {}, k: int = 8, steps: int = 100
) -> Snapshots:
    """Follow x0 (B, ...) along ``steps`` Euler steps, or a few more to hit the times 0, 1/k, …, 1 exactly."""
    every = math.ceil(steps / k)
    seen: list[tuple[Tensor, Tensor]] = []
    count = 0

    def observe(t: Tensor, x: Tensor, v: Tensor) -> None:
        nonlocal count
        if count % every == 0:
            seen.append((x, endpoint(x, v, t)))
        count += 1

    x1 = Euler(k * every)(velocity, x0, cond, observe=observe).x1
    return Snapshots(*(torch.stack([*each, x1], 1) for each in zip(*seen, strict=True)))
