"""Dormand-Prince 5(4) with a step size for each sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..errors import FlowlitError, NotFinite
from ..paths.straight import expand
from ..ranges import NonNegativeFloat
from ..types import Cond, Observer, Solution, VelocityField
from .base import CheckedSolver, Counted

# Dormand and Prince (1980), RK5(4)7M: nodes, stage weights (the last row is also the fifth-order solution),
# error weights.
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


Slope = Callable[..., Tensor]
"""(x, s, rows) -> dx/ds, the velocity in the direction of travel; s (B,) is the share of the way covered."""


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
    """Integrate from x0 (B, C, H, W) with adaptive Dormand-Prince steps, each sample with its own step size.

    Samples that have arrived leave the batch, so NFE (rejected steps included) and result of a sample do not
    depend on its neighbours. The local error is the root mean square of error / (atol + rtol |x|) over a
    sample's entries.

    Raises:
        FlowlitError: if a sample's velocity is not finite, or it needs more than ``max_steps`` steps.
    """
    x = (x0 if x0.dtype == torch.float64 else x0.float()).clone()
    v = Counted(velocity, cond, x)
    slope = partial(_slope, v, reverse)
    done = torch.zeros(len(x), dtype=torch.float64, device=x.device)  # share of the way covered
    rows = torch.arange(len(x), device=x.device)
    k1 = slope(x, done)
    h = _first_step(slope, x, k1, rtol, atol)
    most = torch.full_like(h, 10.0)  # growth of the next step, none right after a rejection
    for _ in range(max_steps):
        here = x[rows]
        at = done[rows]
        h = torch.minimum(h, 1 - at)
        new, k_new, difference = _attempt(slope, here, k1, at, h, rows)
        error = _finite(_rms(difference, here, new, rtol, atol))
        accept = error <= 1
        if observe is not None and accept.any():
            observe(_time(at[accept], reverse).float(), here[accept], _signed(k1[accept], reverse))
        x[rows[accept]] = new[accept]
        done[rows[accept]] = torch.where(h >= 1 - at, 1.0, at + h)[accept]
        k1 = torch.where(expand(accept, here), k_new, k1)
        h = h * torch.minimum(_growth(error), most)
        most = torch.where(accept, 10.0, 1.0)
        going = done[rows] < 1
        rows, k1, h, most = (value[going] for value in (rows, k1, h, most))
        if len(rows) == 0:
            return v.solution(x)
    raise FlowlitError(
        f"RK45: {len(rows)} samples need more than {max_steps} steps; loosen rtol={rtol} and atol={atol}"
    )


def _time(share: Tensor, reverse: bool) -> Tensor:
    return 1 - share if reverse else share


def _signed(v: Tensor, reverse: bool) -> Tensor:
    return v * (-1.0 if reverse else 1.0)


def _slope(v: Counted, reverse: bool, x: Tensor, share: Tensor, rows: Tensor | None = None) -> Tensor:
    return _signed(v(x, _time(share, reverse), rows), reverse)


def _finite(values: Tensor) -> Tensor:
    """Return values (B, …) of samples; refuse those that are not finite."""
    if not torch.isfinite(values).all():
        infinite = int((~torch.isfinite(values)).reshape(len(values), -1).any(1).sum())
        raise NotFinite(f"the velocity of {infinite} samples is not finite")
    return values


def _attempt(
    slope: Slope, x: Tensor, k1: Tensor, at: Tensor, h: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Try a step h (B,) from (x, at): return its end, the slope there, and the estimate of its error."""
    ks = [k1]
    step = expand(h, x).to(x.dtype)
    for node, weights in zip(_NODES[1:], _STAGES, strict=True):
        new = x + step * _combine(weights, ks)
        ks.append(slope(new, at + node * h, rows))
    # the second stage has no weight in either sum, but what is not finite there must not pass
    return new, ks[-1], step * _combine(_ERROR, ks) + 0 * ks[1]


def _growth(error: Tensor) -> Tensor:
    """Factor of the next step, at least 0.2, for an error (B,) relative to the tolerance."""
    return (0.9 * error.double().clamp_min(1e-10) ** -0.2).clamp_min(0.2)


def _combine(weights: tuple[float, ...], ks: list[Tensor]) -> Tensor:
    total = weights[0] * ks[0]
    for weight, k in zip(weights[1:], ks[1:], strict=True):
        if weight:
            total = total + weight * k
    return total


def _rms(error: Tensor, a: Tensor, b: Tensor, rtol: float, atol: float) -> Tensor:
    scale = atol + rtol * torch.maximum(a.abs(), b.abs())
    return (error / scale).flatten(1).square().mean(1).sqrt()


def _first_step(slope: Slope, x: Tensor, k1: Tensor, rtol: float, atol: float) -> Tensor:
    """Choose the first step of each sample (Hairer, Nørsett and Wanner, Solving ODEs I, section II.4)."""
    d0 = _rms(x, x, x, rtol, atol)
    d1 = _rms(k1, x, x, rtol, atol)
    tiny = (d0 < 1e-5) | (d1 < 1e-5)
    h0 = torch.where(tiny, torch.full_like(d0, 1e-6), 0.01 * d0 / d1).clamp_max(1.0).double()
    k2 = _finite(slope(x + expand(h0, x).to(x.dtype) * k1, h0))
    d2 = _rms(k2 - k1, x, x, rtol, atol).double() / h0
    steepest = torch.maximum(d1.double(), d2)
    flat = (h0 * 1e-3).clamp_min(1e-6)
    h1 = torch.where(steepest <= 1e-15, flat, (0.01 / steepest.clamp_min(1e-15)) ** 0.2)
    return torch.minimum(100 * h0, h1).clamp(1e-6, 1.0)


@dataclass
class RK45(CheckedSolver):
    """Adaptive Dormand-Prince 5(4), for couplings and evaluation; NFE is measured, per sample.

    The papers use rtol = atol = 1e-5 on the flattened batch through SciPy; here every sample has its own
    error control.
    """

    rtol: NonNegativeFloat = 1e-5
    atol: NonNegativeFloat = 1e-5

    def __post_init__(self) -> None:
        """Refuse to tolerate no error at all."""
        if self.rtol == self.atol == 0:
            raise FlowlitError("RK45: rtol and atol are 0; expected one of them > 0")

    def _integrate(
        self, velocity: VelocityField, x0: Tensor, cond: Cond, observe: Observer | None, reverse: bool
    ) -> Solution:
        return rk45(velocity, x0, cond, rtol=self.rtol, atol=self.atol, observe=observe, reverse=reverse)
