"""Runge-Kutta rules on a fixed grid."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..paths.straight import expand
from ..ranges import PositiveInt, Share
from .base import Counted, SingleStep, Step


def euler_step(v: Counted, x: Tensor, v_t: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
    """x + Δ v(x, t), (B, C, H, W). One evaluation, order 1."""
    return x + expand(t_next - t, x) * v_t


def rk2_step(v: Counted, x: Tensor, v_t: Tensor, t: Tensor, t_next: Tensor, r: float = 0.5) -> Tensor:
    """Second-order family: r = 1/2 midpoint, 2/3 Ralston, 1 Heun; (B, C, H, W). Two evaluations, order 2.

    x_r = x + r Δ k1;  k2 = v(x_r, t + r Δ);  x + Δ (k1 + (k2 - k1) / (2 r)).
    """
    delta = t_next - t
    k2 = v(x + expand(r * delta, x) * v_t, t + r * delta)
    return x + expand(delta, x) * (v_t + (k2 - v_t) / (2 * r))


def rk4_step(v: Counted, x: Tensor, v_t: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
    """The classical Runge-Kutta rule; (B, C, H, W). Four evaluations, order 4."""
    half = expand((t_next - t) / 2, x)
    delta = expand(t_next - t, x)
    middle = (t + t_next) / 2
    k2 = v(x + half * v_t, middle)
    k3 = v(x + half * k2, middle)
    k4 = v(x + delta * k3, t_next)
    return x + delta / 6 * (v_t + 2 * k2 + 2 * k3 + k4)


@dataclass
class Euler(SingleStep):
    """Euler's rule; with ``steps: 1`` the one-step generator x0 + v(x0, 0). NFE = steps."""

    steps: PositiveInt = 1

    def rule(self, x0: Tensor) -> Step:
        """Return the rule for x0 (B, C, H, W)."""
        return euler_step


@dataclass
class RK2(SingleStep):
    """The second-order family by its parameter r: 1/2 midpoint, 2/3 Ralston, 1 Heun. NFE = 2 steps."""

    r: Share = 0.5

    def rule(self, x0: Tensor) -> Step:
        """Return the rule for x0 (B, C, H, W)."""
        return lambda v, x, v_t, t, t_next: rk2_step(v, x, v_t, t, t_next, self.r)


@dataclass
class Midpoint(RK2):
    """Half an Euler step, then a whole one with the slope found there. NFE = 2 steps."""


@dataclass
class Ralston(RK2):
    """The member of the family with the smallest error bound. NFE = 2 steps."""

    r: Share = 2 / 3


@dataclass
class Heun(RK2):
    """An Euler step, corrected by the slope at its end. NFE = 2 steps."""

    r: Share = 1.0


@dataclass
class RK4(SingleStep):
    """The classical fourth-order rule. NFE = 4 steps."""

    def rule(self, x0: Tensor) -> Step:
        """Return the rule for x0 (B, C, H, W)."""
        return rk4_step
