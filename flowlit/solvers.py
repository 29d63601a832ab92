"""Solvers of dx/dt = v(x, t, cond) between noise (t = 0) and data (t = 1).

Each fixed-grid solver is a pure one-step rule; ``march`` applies it along a grid. State is float32 (float64 if x0 is), also
under autocast. Evaluations are counted where the velocity is called. Sample i never depends on its neighbours in the batch:
RK45 keeps a step size for each, and the stochastic solvers draw each sample's noise from a stream keyed by its own x0.
"""

from __future__ import annotations

import hashlib
import itertools
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from .path import endpoint, expand, interpolate
from .types import Cond, FlowlitError, NotFinite, Observer, Solution, Solver, VelocityField

Step = Callable[["Counted", Tensor, Tensor, Tensor, Tensor], Tensor]
"""(v, x, v(x, t), t, t_next) -> x_next, with t and t_next (B,)."""


class Counted:
    """A velocity on a fixed condition that counts its evaluations per sample."""

    def __init__(self, velocity: VelocityField, cond: Cond, like: Tensor):
        self.velocity, self.cond = velocity, cond
        self.nfe = torch.zeros(len(like), dtype=torch.int64, device=like.device)

    def __call__(self, x: Tensor, t: Tensor, rows: Tensor | None = None) -> Tensor:
        """Evaluate at (x, t), which are the given rows of the batch (all of them by default)."""
        self.nfe[slice(None) if rows is None else rows] += getattr(self.velocity, "evaluations", 1)
        cond = self.cond if rows is None else {key: value[rows] for key, value in self.cond.items()}
        return self.velocity(x, t.float(), cond).to(x.dtype)


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


def march(
    step: Step, velocity: VelocityField, x0: Tensor, grid: list[float], cond: Cond = {}, observe: Observer | None = None
) -> Solution:
    """Apply a one-step rule along a grid of times."""
    x = x0 if x0.dtype == torch.float64 else x0.float()
    v = Counted(velocity, cond, x)
    times = [x.new_full((len(x),), t) for t in grid]
    for t, t_next in itertools.pairwise(times):
        v_t = v(x, t)
        if observe is not None:
            observe(t, x, v_t)
        x = step(v, x, v_t, t, t_next)
    return Solution(x, v.nfe)


def euler_step(v: Counted, x: Tensor, v_t: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
    """x + Δ v(x, t). One evaluation, order 1."""
    return x + expand(t_next - t, x) * v_t


def rk2_step(v: Counted, x: Tensor, v_t: Tensor, t: Tensor, t_next: Tensor, r: float = 0.5) -> Tensor:
    """Second-order family: r = 1/2 midpoint, 2/3 Ralston, 1 Heun. Two evaluations, order 2.

    x_r = x + r Δ k1;  k2 = v(x_r, t + r Δ);  x + Δ (k1 + (k2 - k1) / (2 r)).
    """
    delta = t_next - t
    k2 = v(x + expand(r * delta, x) * v_t, t + r * delta)
    return x + expand(delta, x) * (v_t + (k2 - v_t) / (2 * r))


def rk4_step(v: Counted, x: Tensor, v_t: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
    """The classical Runge-Kutta rule. Four evaluations, order 4."""
    half, delta = expand((t_next - t) / 2, x), expand(t_next - t, x)
    middle = (t + t_next) / 2
    k2 = v(x + half * v_t, middle)
    k3 = v(x + half * k2, middle)
    k4 = v(x + delta * k3, t_next)
    return x + delta / 6 * (v_t + 2 * k2 + 2 * k3 + k4)


@dataclass
class _GridSolver(Solver):
    """Shared by all solvers on a fixed grid: ``steps`` intervals, warped by ``rho`` (see ``time_grid``)."""

    steps: int
    rho: float = 1.0
    reversible: ClassVar[bool] = True

    @abstractmethod
    def rule(self, x0: Tensor) -> Step:
        """Return the one-step rule, given the batch it starts from."""

    def __call__(
        self,
        velocity: VelocityField,
        x0: Tensor,
        cond: Cond = {},
        *,
        observe: Observer | None = None,
        reverse: bool = False,
    ) -> Solution:
        if reverse and not self.reversible:
            raise FlowlitError(f"{type(self).__name__} draws noise and cannot run in reverse; use an ODE solver")
        return march(self.rule(x0), velocity, x0, time_grid(self.steps, self.rho, reverse), cond, observe)


@dataclass
class Euler(_GridSolver):
    """Euler's rule; with ``steps: 1`` the one-step generator x0 + v(x0, 0). NFE = steps."""

    steps: int = 1

    def rule(self, x0: Tensor) -> Step:
        return euler_step


@dataclass
class RK2(_GridSolver):
    """The second-order family by its parameter r: 1/2 midpoint, 2/3 Ralston, 1 Heun. NFE = 2 steps."""

    r: float = 0.5

    def rule(self, x0: Tensor) -> Step:
        return lambda v, x, v_t, t, t_next: rk2_step(v, x, v_t, t, t_next, self.r)


@dataclass
class Midpoint(RK2):
    """Half an Euler step, then a whole one with the slope found there. NFE = 2 steps."""


@dataclass
class Ralston(RK2):
    """The member of the family with the smallest error bound. NFE = 2 steps."""

    r: float = 2 / 3


@dataclass
class Heun(RK2):
    """An Euler step, corrected by the slope at its end. NFE = 2 steps."""

    r: float = 1.0


@dataclass
class RK4(_GridSolver):
    """The classical fourth-order rule. NFE = 4 steps."""

    def rule(self, x0: Tensor) -> Step:
        return rk4_step


def noise_stream(x0: Tensor) -> Callable[[], Tensor]:
    """Return a function that draws N(0, I) like x0, row i from a stream keyed by the bits of x0[i] alone."""
    rows = x0.detach().float().cpu().numpy()
    keys = [int.from_bytes(hashlib.sha256(row.tobytes()).digest()[:16], "little") for row in rows]
    generators = [np.random.Generator(np.random.Philox(key=key)) for key in keys]
    shape = tuple(x0.shape[1:])

    def draw() -> Tensor:
        drawn = np.stack([g.standard_normal(shape, dtype=np.float32) for g in generators])
        return torch.from_numpy(drawn).to(x0.device, x0.dtype)

    return draw


@dataclass
class SDE(_GridSolver):
    """Euler-Maruyama on dx = [v + ½ σ² s] dt + σ dW with the score s = (t v - x) / (1 - t).

    Keeps the marginals of the ODE for any sigma if the coupling is independent (a 1-rectified flow); only roughly for a
    reflowed model. sigma_t = sigma · sqrt(1 - t), so that the drift stays bounded near data. NFE = steps.
    """

    sigma: float = 1.0
    reversible: ClassVar[bool] = False

    def rule(self, x0: Tensor) -> Step:
        draw = noise_stream(x0)

        def step(v: Counted, x: Tensor, v_t: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
            t_, delta = expand(t, x), expand(t_next - t, x)
            variance = self.sigma**2 * (1 - t_)
            drift = v_t + self.sigma**2 / 2 * (t_ * v_t - x)  # ½ σ_t² s, with 1 - t cancelled
            return x + delta * drift + torch.sqrt(variance * delta) * draw()

        return step


@dataclass
class ReNoise(_GridSolver):
    """Jump to the predicted data, then go back to the next time with noise: x ← t' x̂ + (1 - t') ε.

    ε is new at each step (``fresh: true``, stochastic iterative sampling), or the original x0 (``false``, as in 2405.20320).
    NFE = steps.
    """

    fresh: bool = True
    reversible: ClassVar[bool] = False

    def rule(self, x0: Tensor) -> Step:
        draw = noise_stream(x0) if self.fresh else lambda: x0

        def step(v: Counted, x: Tensor, v_t: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
            return interpolate(draw(), endpoint(x, v_t, t), t_next)

        return step


def sigma_grid(steps: int, sigma_min: float, sigma_max: float, rho: float) -> list[float]:
    """Return steps noise levels from sigma_max to sigma_min, uniform in σ^(1 / rho), and 0. Karras et al. 2022, eq. 5."""
    first, last = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return [(first + i / max(steps - 1, 1) * (last - first)) ** rho for i in range(steps)] + [0.0]


def edm_heun(velocity: VelocityField, x0: Tensor, cond: Cond, levels: list[float], observe: Observer | None = None) -> Solution:
    """Integrate dy/dσ = (y - D(y, σ)) / σ along falling noise levels, from y = σ_0 x0, by Heun's rule and an Euler step to 0.

    A velocity is a denoiser: D(y, σ) = x + (1 - t) v(x, t) with t = 1 / (1 + σ) and x = t y. State is float64, as in EDM.
    Karras et al. 2022, algorithm 1 without churn.
    """
    v = Counted(velocity, cond, x0)
    y = x0.double() * levels[0]

    def slope(y: Tensor, level: float, show: bool = False) -> Tensor:
        t = y.new_full((len(y),), 1 / (1 + level))
        x = (y * t[0]).to(x0.dtype)
        v_t = v(x, t)
        if observe is not None and show:
            observe(t.float(), x, v_t)
        return (y - endpoint(x.double(), v_t.double(), t)) / level

    for level, following in itertools.pairwise(levels):
        d = slope(y, level, show=True)
        ahead = y + (following - level) * d
        y = ahead if following == 0 else y + (following - level) * (d + slope(ahead, following)) / 2
    return Solution(y.to(x0.dtype), v.nfe)


@dataclass
class EDMHeun(Solver):
    """EDM's deterministic sampler, for EDM teachers: Heun's rule on noise levels dense near data. NFE = 2 steps - 1.

    18 steps for CIFAR-10, 40 for ImageNet at 64 pixels. It starts at sigma_max · x0, a little short of t = 0.
    """

    steps: int = 18
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __call__(
        self,
        velocity: VelocityField,
        x0: Tensor,
        cond: Cond = {},
        *,
        observe: Observer | None = None,
        reverse: bool = False,
    ) -> Solution:
        if reverse:
            raise FlowlitError("EDMHeun begins at sigma_max and cannot run in reverse; use RK45")
        if self.steps < 1 or not 0 < self.sigma_min <= self.sigma_max or self.rho <= 0:
            raise FlowlitError(f"EDMHeun: expected steps >= 1, 0 < sigma_min <= sigma_max and rho > 0, found {self}")
        return edm_heun(velocity, x0, cond, sigma_grid(self.steps, self.sigma_min, self.sigma_max, self.rho), observe)


# Dormand and Prince (1980), RK5(4)7M: nodes, stage weights (the last row is also the fifth-order solution), error weights.
_NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


def rk45(
    velocity: VelocityField,
    x0: Tensor,
    cond: Cond = {},
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    observe: Observer | None = None,
    reverse: bool = False,
    max_steps: int = 10_000,
) -> Solution:
    """Integrate with adaptive Dormand-Prince steps, each sample with a step size and an end of its own.

    Samples that have arrived leave the batch, so NFE (rejected steps included) and result of a sample do not depend on its
    neighbours. The local error is the root mean square of error / (atol + rtol |x|) over a sample's entries.

    Raises:
        FlowlitError: if a sample's velocity is not finite, or it needs more than ``max_steps`` steps.
    """
    x = (x0 if x0.dtype == torch.float64 else x0.float()).clone()
    v = Counted(velocity, cond, x)
    sign = -1.0 if reverse else 1.0
    done = torch.zeros(len(x), dtype=torch.float64, device=x.device)  # share of the way that lies behind each sample

    def clock(share: Tensor) -> Tensor:
        return 1 - share if reverse else share

    rows = torch.arange(len(x), device=x.device)
    k1 = v(x, clock(done)) * sign
    h = _first_step(v, x, k1, clock, sign, rtol, atol)
    most = torch.full_like(h, 10.0)  # growth of the next step, none right after a rejection
    for _ in range(max_steps):
        here, at = x[rows], done[rows]
        h = torch.minimum(h, 1 - at)
        ks = [k1]
        for node, weights in zip(_NODES[1:], _STAGES, strict=True):
            new = here + expand(h, here).to(x.dtype) * _combine(weights, ks)
            ks.append(v(new, clock(at + node * h), rows) * sign)
        error = _rms(expand(h, here).to(x.dtype) * _combine(_ERROR, ks), here, new, rtol, atol)
        if not torch.isfinite(error).all():
            raise NotFinite(f"RK45: the velocity of {int((~torch.isfinite(error)).sum())} samples is not finite")
        accept = error <= 1
        if observe is not None and accept.any():
            observe(clock(at[accept]).float(), here[accept], ks[0][accept] * sign)
        x[rows[accept]] = new[accept]
        done[rows[accept]] = torch.where(h >= 1 - at, 1.0, at + h)[accept]
        k1 = torch.where(expand(accept, here), ks[-1], ks[0])
        grow = (0.9 * error.double().clamp_min(1e-10) ** -0.2).clamp_min(0.2)
        h = h * torch.minimum(grow, most)
        most = torch.where(accept, 10.0, 1.0)
        going = done[rows] < 1
        rows, k1, h, most = rows[going], k1[going], h[going], most[going]
        if len(rows) == 0:
            return Solution(x, v.nfe)
    raise FlowlitError(f"RK45: {len(rows)} samples need more than {max_steps} steps; loosen rtol={rtol} and atol={atol}")


def _combine(weights: tuple[float, ...], ks: list[Tensor]) -> Tensor:
    total = weights[0] * ks[0]
    for weight, k in zip(weights[1:], ks[1:], strict=True):
        if weight:
            total = total + weight * k
    return total


def _rms(error: Tensor, a: Tensor, b: Tensor, rtol: float, atol: float) -> Tensor:
    scale = atol + rtol * torch.maximum(a.abs(), b.abs())
    return (error / scale).flatten(1).square().mean(1).sqrt()


def _first_step(v: Counted, x: Tensor, k1: Tensor, clock: Callable, sign: float, rtol: float, atol: float) -> Tensor:
    """Choose the first step of each sample (Hairer, Nørsett and Wanner, Solving ODEs I, section II.4)."""
    d0, d1 = _rms(x, x, x, rtol, atol), _rms(k1, x, x, rtol, atol)
    h0 = torch.where((d0 < 1e-5) | (d1 < 1e-5), torch.full_like(d0, 1e-6), 0.01 * d0 / d1).clamp_max(1.0).double()
    k2 = v(x + expand(h0, x).to(x.dtype) * k1, clock(h0)) * sign
    d2 = _rms(k2 - k1, x, x, rtol, atol).double() / h0
    steepest = torch.maximum(d1.double(), d2)
    h1 = torch.where(steepest <= 1e-15, (h0 * 1e-3).clamp_min(1e-6), (0.01 / steepest.clamp_min(1e-15)) ** 0.2)
    return torch.minimum(100 * h0, h1).clamp(1e-6, 1.0)


@dataclass
class RK45(Solver):
    """Adaptive Dormand-Prince 5(4), for couplings and evaluation; NFE is measured, per sample.

    The papers use rtol = atol = 1e-5 on the flattened batch through SciPy; here every sample has its own error control.
    """

    rtol: float = 1e-5
    atol: float = 1e-5

    def __call__(
        self,
        velocity: VelocityField,
        x0: Tensor,
        cond: Cond = {},
        *,
        observe: Observer | None = None,
        reverse: bool = False,
    ) -> Solution:
        return rk45(velocity, x0, cond, rtol=self.rtol, atol=self.atol, observe=observe, reverse=reverse)
