"""DPM-Solver with a step size for each sample. Lu et al. 2022 (2206.00927), appendix C."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import FlowlitError, NotFinite
from ..paths.straight import expand
from ..ranges import NonNegativeFloat, PositiveFloat
from ..types import Cond, Observer, Solution, VelocityField
from .base import CheckedSolver, Counted
from .exponential import log_snr

FIRST = 0.05
"""First step, in the log-SNR."""

SAFETY = 0.9
MOST = 10_000
"""Steps of a sample at most."""


class Attempt:
    """A step h (B,) in the log-SNR from x (B, C, H, W) at λ (B,), of samples that are rows of a batch.

    Args:
        v: the counted velocity.
        x: state.
        level: λ.
        h: step, negative in reverse.
        rows: of the samples.
        prediction: "data" or "noise".
    """

    def __init__(self, v: Counted, x: Tensor, level: Tensor, h: Tensor, rows: Tensor, prediction: str):
        self.v = v
        self.x = x
        self.level = level
        self.h = h
        self.rows = rows
        self.is_data = prediction == "data"

    def prediction(self, x: Tensor, velocity: Tensor, share: float) -> Tensor:
        """Return data or noise (B, C, H, W) from a velocity at x (B, C, H, W), at a share of the step."""
        t = torch.sigmoid(self.level + share * self.h)
        return x + expand(1 - t if self.is_data else -t, x).to(x.dtype) * velocity

    def evaluate(self, x: Tensor, share: float) -> Tensor:
        """Return the prediction (B, C, H, W) at x (B, C, H, W), at a share of the step."""
        t = torch.sigmoid(self.level + share * self.h)
        return self.prediction(x, self.v(x, t, self.rows), share)

    def advance(self, m: Tensor, share: float, slope: Tensor | None = None) -> Tensor:
        """Return the state (B, C, H, W) at a share of the step from m + slope · r / h, both (B, C, H, W).

        In the log-SNR, r being the distance from the start; the slope is none for Euler's rule.
        """
        h = share * self.h if self.is_data else -share * self.h
        level = self.level + share * self.h
        end = torch.sigmoid(level if self.is_data else -level)  # on the way turned round for noise
        factor = torch.sigmoid(-level if self.is_data else level)
        factor = factor / torch.sigmoid(-self.level if self.is_data else self.level)
        constant = -end * torch.expm1(-h)
        x = expand(factor, m).to(m.dtype) * self.x + expand(constant, m).to(m.dtype) * m
        if slope is None:
            return x
        linear = (end * h - constant) / h * share
        return x + expand(linear, m).to(m.dtype) * slope


def second(attempt: Attempt, m: Tensor) -> tuple[Tensor, Tensor]:
    """Return the states of order 1 and 2 at the end of a step, (B, C, H, W), from the prediction m there."""
    middle = attempt.evaluate(attempt.advance(m, 0.5), 0.5)
    return attempt.advance(m, 1.0), attempt.advance(m, 1.0, 2 * (middle - m))


def third(attempt: Attempt, m: Tensor) -> tuple[Tensor, Tensor]:
    """Return the states of order 2 and 3 at the end of a step, (B, C, H, W), which share evaluations."""
    one = attempt.evaluate(attempt.advance(m, 1 / 3), 1 / 3)
    two = attempt.evaluate(attempt.advance(m, 2 / 3, 3 * (one - m)), 2 / 3)
    return attempt.advance(m, 1.0, 3 * (one - m)), attempt.advance(m, 1.0, 1.5 * (two - m))


def adaptive(
    velocity: VelocityField,
    x0: Tensor,
    cond: Cond,
    solver: AdaptiveDPMSolver,
    observe: Observer | None = None,
    reverse: bool = False,
) -> Solution:
    """Integrate from x0 (B, C, H, W); samples that have arrived leave the batch.

    Raises:
        FlowlitError: if a sample needs too many steps, or its velocity is not finite.
    """
    x = (x0 if x0.dtype == torch.float64 else x0.float()).clone()
    v = Counted(velocity, cond, x)
    sign = -1.0 if reverse else 1.0
    first = 1 - solver.margin if reverse else solver.margin
    x = _euler(v, x, float(reverse), first, observe)
    last = log_snr(1 - first)
    level = torch.full((len(x),), log_snr(first), dtype=torch.float64, device=x.device)
    rows = torch.arange(len(x), device=x.device)
    h = torch.full_like(level, sign * FIRST)
    slopes = v(x, torch.sigmoid(level)).clone()  # rows of it are replaced, and it is the velocity's own
    previous = x.clone()
    step = second if solver.order == 2 else third
    for _ in range(MOST):
        left = last - level
        h = torch.where(h.abs() < left.abs(), h, left)
        attempt = Attempt(v, x[rows], level, h, rows, solver.prediction)
        low, high = step(attempt, attempt.prediction(attempt.x, slopes, 0.0))
        scale = torch.maximum(low.abs(), previous[rows].abs()).mul(solver.rtol).clamp_min(solver.atol)
        error = _finite(((high - low) / scale).flatten(1).square().mean(1).sqrt())
        accept = error <= 1
        if observe is not None and accept.any():
            observe(torch.sigmoid(level)[accept].float(), attempt.x[accept], slopes[accept])
        x[rows[accept]] = high[accept]
        previous[rows[accept]] = low[accept]
        arrived = accept & (h == left)
        level = torch.where(accept, level + h, level)
        h = h * (SAFETY * error.double().clamp_min(1e-10) ** (-1 / solver.order)).clamp_max(10.0)
        moved = accept & ~arrived
        if moved.any():
            slopes[moved] = v(x[rows[moved]], torch.sigmoid(level[moved]), rows[moved])
        rows, level, h, slopes = (value[~arrived] for value in (rows, level, h, slopes))
        if len(rows) == 0:
            return v.solution(_euler(v, x, 1 - first, float(not reverse), observe))
    raise FlowlitError(f"AdaptiveDPMSolver: {len(rows)} samples need more than {MOST} steps; loosen {solver}")


def _euler(v: Counted, x: Tensor, s: float, t: float, observe: Observer | None) -> Tensor:
    here = x.new_full((len(x),), s)
    slope = v(x, here)
    if observe is not None:
        observe(here, x, slope)
    return x + (t - s) * slope


def _finite(error: Tensor) -> Tensor:
    bad = int((~torch.isfinite(error)).sum())
    if bad:
        raise NotFinite(f"the velocity of {bad} samples is not finite")
    return error


@dataclass
class AdaptiveDPMSolver(CheckedSolver):
    """DPM-Solver with a step size for each sample, and Euler's rule at both ends; NFE is measured.

    The error is the difference of two orders that share evaluations. ``RK45`` is the better one for
    couplings: this one's tolerance is of images of 8 bits.

    Args:
        order: 2 or 3.
        rtol: relative tolerance.
        atol: absolute one; 2 / 256 by default.
        prediction: "data" or "noise".
        margin: distance to both ends at which Euler's rule takes over.
    """

    order: Literal[2, 3] = 3
    rtol: NonNegativeFloat = 0.05
    atol: PositiveFloat = 0.0078
    prediction: Literal["data", "noise"] = "data"
    margin: PositiveFloat = 0.01

    def __post_init__(self) -> None:
        """Refuse a margin that leaves nothing in between."""
        if self.margin >= 0.5:
            raise FlowlitError(f"AdaptiveDPMSolver: margin is {self.margin}; expected one below 0.5")

    def _integrate(
        self, velocity: VelocityField, x0: Tensor, cond: Cond, observe: Observer | None, reverse: bool
    ) -> Solution:
        return adaptive(velocity, x0, cond, self, observe, reverse)
