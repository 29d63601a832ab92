"""The flow map of a correlated Gaussian in closed form, in float64."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flowlit.types import Pair

SHAPE = (1, 2, 2)


class GaussianMap(nn.Module):
    """Average velocity of the straight path from N(0, I) to N(μ, Q Λ Qᵀ), scaled by 1 + θ.

    ``sign`` -1 is that of a clock that runs the other way, with everything else as it is.
    """

    def __init__(self, sign: float = 1.0):
        super().__init__()
        draw = torch.Generator().manual_seed(5)
        self.basis = torch.linalg.qr(torch.randn(4, 4, generator=draw, dtype=torch.float64))[0]
        self.mean = torch.randn(4, generator=draw, dtype=torch.float64)
        self.spectrum = torch.tensor([0.1, 0.5, 1.5, 4.0], dtype=torch.float64)
        self.theta = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.sign = sign
        self.calls = 0

    def variance(self, t: Tensor) -> Tensor:
        return (1 - t) ** 2 + t**2 * self.spectrum

    def forward(self, x: Tensor, t: Tensor, cond=None) -> Tensor:
        self.calls += 1
        t = t.to(x.dtype)[:, None]
        s = (cond or {}).get("r")
        s = t if s is None else s.to(x.dtype)[:, None]
        equal = s == t
        factor = (self.variance(s) / self.variance(t)).sqrt() - 1
        slope = (t * self.spectrum - (1 - t)) / self.variance(t)
        rate = torch.where(equal, slope, factor / torch.where(equal, 1.0, s - t))
        centred = (x.flatten(1) - t * self.mean) @ self.basis
        u = self.mean + (rate * centred) @ self.basis.T
        return (1 + self.theta) * self.sign * u.reshape(x.shape)

    def pair(self, rows: int, seed: int = 0) -> Pair:
        draw = torch.Generator().manual_seed(seed)
        x0, z = torch.randn(2, rows, 4, generator=draw, dtype=torch.float64)
        x1 = self.mean + (z * self.spectrum.sqrt()) @ self.basis.T
        return Pair(x0.reshape(rows, *SHAPE), x1.reshape(rows, *SHAPE))


def intervals(rows: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Return t < s in [0, 1], with ends at 0 and 1 among them."""
    draw = torch.Generator().manual_seed(seed)
    times = torch.rand(2, rows, generator=draw, dtype=torch.float64)
    t, s = times.min(0).values, times.max(0).values
    t[0] = 0
    s[:2] = 1
    return t, s
