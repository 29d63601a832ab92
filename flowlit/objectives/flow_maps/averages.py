"""Average velocities u(x, t, s) of a network, and their derivatives.

A flow map carries x from time t to s >= t: X(x, t, s) = x + (s - t) u(x, t, s), with u(x, t, t) = v(x, t).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ..._support.derivatives import along, unrounded
from ..._support.modes import training
from ..._support.velocities import evaluate
from ...paths.straight import expand
from ...types import Cond, VelocityField, evaluations_of, reads_of

Derivative = Literal["jvp", "central", "forward"]
"""By forward mode, by a difference of two evaluations around t, or of one later and the one at t."""


def average(velocity: VelocityField, x: Tensor, t: Tensor, s: Tensor, cond: Cond = {}) -> Tensor:
    """Return u(x, t, s), (B, C, H, W), at t and s (B,); a network of one time is called without s."""
    reads = reads_of(velocity)
    one_time = reads is not None and "r" not in reads
    return evaluate(velocity, x, t, cond if one_time else {**cond, "r": s})


def jump(x: Tensor, u: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Return X = x + (s - t) u, (B, C, H, W), for times (B,)."""
    return x + expand(s - t, x) * u


class Repeated:
    """A velocity whose random draws, dropout and hidden labels, are the same in each call.

    Args:
        velocity: the network in training.
        device: of its draws.
    """

    def __init__(self, velocity: VelocityField, device: torch.device):
        self.velocity = velocity
        self.evaluations = evaluations_of(velocity)
        self.device = device
        self.host = torch.get_rng_state()
        self.there = None if device.type == "cpu" else getattr(torch, device.type).get_rng_state(device)

    @property
    def reads(self) -> frozenset[str] | None:
        """Names of the conditions that the velocity reads."""
        return reads_of(self.velocity)

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = {}) -> Tensor:
        torch.set_rng_state(self.host)
        if self.there is not None:
            getattr(torch, self.device.type).set_rng_state(self.there, self.device)
        return self.velocity(x, t, cond)


class Likewise(Repeated):
    """Another network, in training mode while it is called, with the draws that a repeated one has."""

    def __init__(self, network: nn.Module, like: Repeated):
        self.velocity = network
        self.evaluations = evaluations_of(network)
        self.device = like.device
        self.host = like.host
        self.there = like.there

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = {}) -> Tensor:
        with training(self.velocity):
            return super().__call__(x, t, cond)


def likewise(network: nn.Module, velocity: VelocityField) -> VelocityField:
    """Return a network that hides the labels, and drops the activations, that ``velocity`` does."""
    return Likewise(network, velocity) if isinstance(velocity, Repeated) else network


def repeated(velocity: VelocityField, x: Tensor) -> VelocityField:
    """Return a velocity with the same draws in every call, on the device of x (B, C, H, W)."""
    return Repeated(velocity, x.device) if getattr(velocity, "training", False) else velocity


def start_derivative(
    velocity: VelocityField,
    x: Tensor,
    t: Tensor,
    s: Tensor,
    tangent: Tensor,
    cond: Cond = {},
    *,
    u: Tensor,
    derivative: Derivative = "jvp",
    step: float = 5e-3,
) -> Tensor:
    """d/dt u(x_t, t, s) along dx/dt = tangent, (B, C, H, W), at t and s (B,), without a gradient.

    ``u`` is u(x, t, s). Differences stay inside [0, 1]: they are one-sided at its ends. Their evaluations are
    not rounded by autocast, under which "forward" takes another u(x, t, s).
    """
    autocast = torch.is_autocast_enabled(x.device.type)
    with torch.no_grad(), unrounded(x.device):

        def moved(by: Tensor) -> Tensor:
            return average(velocity, x + expand(by, x) * tangent, t + by, s, cond)

        if derivative == "jvp":
            return along(
                lambda x, t: average(velocity, x, t, s, cond), (x, t), (tangent, torch.ones_like(t))
            )[1]
        if derivative == "forward":
            by = torch.where(t + step <= 1, step, -step).to(t.dtype)
            u = moved(torch.zeros_like(t)) if autocast else u
            return (moved(by) - u) / expand(by, x)
        ahead = (1 - t).clamp(max=step)
        behind = t.clamp(max=step)
        return (moved(ahead) - moved(-behind)) / expand(ahead + behind, x)


def end_derivative(
    velocity: VelocityField,
    x: Tensor,
    t: Tensor,
    s: Tensor,
    cond: Cond = {},
    *,
    derivative: Derivative = "jvp",
    step: float = 5e-3,
) -> tuple[Tensor, Tensor]:
    """Return u(x, t, s) and d/ds u(x, t, s), (B, C, H, W), at t and s (B,), both with their gradients.

    Differences stay inside [t, 1]; "forward" is the one with the value behind. Autocast rounds neither.
    """
    if derivative == "jvp":
        return along(lambda s: average(velocity, x, t, s, cond), (s,), (torch.ones_like(s),))
    behind = (s - t).clamp(max=step)
    ahead = (1 - s).clamp(max=step) if derivative == "central" else torch.zeros_like(s)
    with unrounded(x.device):
        u = average(velocity, x, t, s, cond)
        later = average(velocity, x, t, s + ahead, cond) if derivative == "central" else u
        earlier = average(velocity, x, t, s - behind, cond)
    span = torch.where(ahead + behind > 0, ahead + behind, 1.0)
    return u, (later - earlier) / expand(span, x)
