"""Solvers that draw noise on their way."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..paths.straight import endpoint, expand, interpolate
from ..ranges import NonNegativeFloat
from .base import Counted, SingleStep, Step


def noise_stream(x0: Tensor) -> Callable[[], Tensor]:
    """Return a function that draws N(0, I) like x0 (B, C, H, W).

    Row i comes from a stream keyed by the bits of x0[i] alone.
    """
    rows = x0.detach().float().cpu().numpy()
    keys = [int.from_bytes(hashlib.sha256(row.tobytes()).digest()[:16], "little") for row in rows]
    generators = [np.random.Generator(np.random.Philox(key=key)) for key in keys]
    shape = tuple(x0.shape[1:])

    def draw() -> Tensor:
        drawn = np.stack([g.standard_normal(shape, dtype=np.float32) for g in generators])
        return torch.from_numpy(drawn).to(x0.device, x0.dtype)

    return draw


@dataclass
class SDE(SingleStep):
    """Euler-Maruyama on dx = [v + ½ σ² s] dt + σ dW with the score s = (t v - x) / (1 - t).

    Keeps the marginals of the ODE for any sigma if the coupling is independent (a 1-rectified flow); only
    roughly for a reflowed model. sigma_t = sigma · sqrt(1 - t), so that the drift stays bounded near data.
    NFE = steps.
    """

    sigma: NonNegativeFloat = 1.0
    one_way: ClassVar[str] = "draws noise"

    def rule(self, x0: Tensor) -> Step:
        """Return the rule for x0 (B, C, H, W)."""
        draw = noise_stream(x0)

        def step(v: Counted, x: Tensor, v_t: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
            t_ = expand(t, x)
            delta = expand(t_next - t, x)
            variance = self.sigma**2 * (1 - t_)
            drift = v_t + self.sigma**2 / 2 * (t_ * v_t - x)  # ½ σ_t² s, with 1 - t cancelled
            return x + delta * drift + torch.sqrt(variance * delta) * draw()

        return step


@dataclass
class ReNoise(SingleStep):
    """Jump to the predicted data, then go back to the next time with noise: x ← t' x̂ + (1 - t') ε.

    ε is new at each step (``fresh: true``, stochastic iterative sampling), or the original x0 (``false``, as
    in 2405.20320). NFE = steps.
    """

    fresh: bool = True
    one_way: ClassVar[str] = "draws noise"

    def rule(self, x0: Tensor) -> Step:
        """Return the rule for x0 (B, C, H, W)."""
        draw = noise_stream(x0) if self.fresh else lambda: x0

        def step(v: Counted, x: Tensor, v_t: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
            return interpolate(draw(), endpoint(x, v_t, t), t_next)

        return step
