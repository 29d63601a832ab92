"""Jacobians of a velocity by products with vectors: its antisymmetric part, and the dimension of the data.

A velocity ∇φ of an independent coupling has a symmetric Jacobian. A field with the same marginals need not
have one: ∇·(p r) = 0 is a freedom of gauge (2402.03845). So conservativity is neither needed nor enough for
sampling; it matters for what is read off Jacobians, such as dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .._support.derivatives import along
from .._support.velocities import evaluate
from ..paths.straight import expand
from ..types import Cond, VelocityField
from .base import Sums

Field = Callable[[Tensor], Tensor]
"""Function of x (B, C, H, W), to the same shape, each row of its own."""


def pushed(field: Field, x: Tensor, e: Tensor) -> Tensor:
    """Return J e, (B, C, H, W), with the Jacobian of each row at x (B, C, H, W), by forward mode."""
    with torch.no_grad():
        return along(field, (x,), (e,))[1]


def pulled(field: Field, x: Tensor, e: Tensor) -> Tensor:
    """Return Jᵀ e, (B, C, H, W), likewise by reverse mode, with no gradient of any weight."""
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), torch.autocast(x.device.type, enabled=False):
        x = x.detach().requires_grad_(True)
        (product,) = torch.autograd.grad(field(x), x, e)
    return product


def signs(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw ±1, as x (B, C, H, W); the generator is of the CPU, so that draws are the same on any device."""
    bits = torch.randint(0, 2, like.shape, generator=generator)
    return (2.0 * bits - 1).to(like)


class Products(NamedTuple):
    """Of the Jacobian J of each row, means over probes, (B,) float64."""

    antisymmetric: Tensor
    """‖J e - Jᵀ e‖², whose mean is ‖J - Jᵀ‖² of the matrix."""
    both: Tensor
    """‖J e‖² + ‖Jᵀ e‖², whose mean is 2 ‖J‖²."""
    trace: Tensor
    """eᵀ J e."""


def products(field: Field, x: Tensor, probes: int = 4, generator: torch.Generator | None = None) -> Products:
    """Probe the Jacobian of each row at x (B, C, H, W): one product forwards and one back for each probe."""
    sums = torch.zeros(3, len(x), dtype=torch.float64, device=x.device)
    for _ in range(probes):
        e = signs(x, generator)
        forwards = pushed(field, x, e).double().flatten(1)
        back = pulled(field, x, e).double().flatten(1)
        sums[0] += (forwards - back).square().sum(1)
        sums[1] += forwards.square().sum(1) + back.square().sum(1)
        sums[2] += (e.double().flatten(1) * forwards).sum(1)
    return Products(*(sums / probes))


def singular_values(field: Field, x: Tensor, most: int, generator: torch.Generator | None = None) -> Tensor:
    """Return the largest singular values of the Jacobian of each row at x (B, C, H, W), (B, k), descending.

    Randomised (Halko et al. 2011) without the matrix, by k = ``most`` products forwards and k back, or exact
    where that is all dimensions. Of a slowly falling spectrum the last ones are too small.
    """
    dimensions = x[0].numel()
    k = min(most, dimensions)
    if k == dimensions:
        start = torch.eye(k).expand(len(x), k, k).to(x)
    else:
        start = torch.randn(len(x), dimensions, k, generator=generator).to(x)
    image = _columns(lambda e: pushed(field, x, e), start, x)
    basis = torch.linalg.qr(image.double())[0]
    back = _columns(lambda e: pulled(field, x, e), basis.to(x.dtype), x)
    return torch.linalg.svdvals(back.double())


def _columns(product: Field, vectors: Tensor, x: Tensor) -> Tensor:
    """Return the products (B, D, k) of vectors (B, D, k), one column of all rows at a time."""
    shaped = (vectors[..., i].reshape(x.shape) for i in range(vectors.shape[-1]))
    return torch.stack([product(e.contiguous()).flatten(1) for e in shaped], -1)


def velocity_at(velocity: VelocityField, t: Tensor, cond: Cond = {}) -> Field:
    """Return x → v(x, t), at times (B,), (B, C, H, W)."""
    return lambda x: evaluate(velocity, x, t, cond)


def projection_at(velocity: VelocityField, t: Tensor, cond: Cond = {}) -> Field:
    """Return x → t (x + (1 - t) v(x, t)), at times (B,), (B, C, H, W).

    Its Jacobian is t times that of the posterior mean, the covariance of x1 given x in units of the noise
    times (1 - t)² / t²: near 1 along the data, near 0 across them.
    """

    def field(x: Tensor) -> Tensor:
        time = expand(t.to(x.dtype), x)
        return time * (x + (1 - time) * evaluate(velocity, x, t, cond))

    return field


class Jacobian(NamedTuple):
    """Rows of samples at one time t, (B,) float64."""

    products: Products
    """Of the velocity."""
    trace: Tensor
    """t tr(I + (1 - t) J), the dimension by a trace."""
    spectrum: Tensor
    """Number of singular values of t (I + (1 - t) J) above ½, the dimension by a spectrum."""


def jacobian(
    velocity: VelocityField,
    x: Tensor,
    t: float,
    cond: Cond = {},
    *,
    probes: int = 4,
    most: int = 64,
    generator: torch.Generator | None = None,
) -> Jacobian:
    """Probe a velocity in eval mode at states x (B, C, H, W) of its flow at a time t.

    With more data dimensions than ``most`` the count stops there. Both dimensions suppose that the velocity
    is that of an independent coupling; of a reflowed one they are those of the map from noise.
    """
    times = torch.full((len(x),), t, dtype=torch.float32, device=x.device)
    probed = products(velocity_at(velocity, times, cond), x, probes, generator)
    trace = t * (x[0].numel() + (1 - t) * probed.trace)
    values = singular_values(projection_at(velocity, times, cond), x, most, generator)
    return Jacobian(probed, trace, (values > 0.5).sum(1).double())


class Estimates(NamedTuple):
    """Means over samples at K times, and their standard errors, each (K,) float64."""

    share: Tensor
    """‖J - Jᵀ‖² / 4 ‖J‖², the antisymmetric part of the Jacobian: 0 of a gradient, 1 of a rotation."""
    share_error: Tensor
    trace: Tensor
    trace_error: Tensor
    spectrum: Tensor
    spectrum_error: Tensor


class MeanJacobian(Sums):
    """Estimates of samples at K times, streaming and summed over ranks."""

    count: Tensor
    first: Tensor
    second: Tensor

    def __init__(self, times: int) -> None:
        super().__init__(count=(times,), first=(4, times), second=(4, 4, times))

    def update(self, place: int, part: Jacobian) -> None:
        """Add samples at one of the times."""
        rows = torch.stack([part.products.antisymmetric, part.products.both, part.trace, part.spectrum])
        self.count[place] += rows.shape[1]
        self.first[:, place] += rows.sum(1)
        self.second[..., place] += rows @ rows.T

    def compute(self) -> Estimates:
        """Return means, and standard errors over samples; that of the share by linearisation of the ratio."""
        n = self.count
        mean = self.first / n
        covariance = (self.second / n - mean[:, None] * mean[None]) / (n - 1)  # of the means
        variance = covariance.diagonal().T.clamp_min(0)
        ratio = torch.where(mean[1] > 0, mean[0] / mean[1], 0.0)
        spread = (covariance[0, 0] - 2 * ratio * covariance[0, 1] + ratio**2 * covariance[1, 1]).clamp_min(0)
        error = torch.where(mean[1] > 0, spread.sqrt() / mean[1], 0.0)
        return Estimates(ratio / 2, error / 2, mean[2], variance[2].sqrt(), mean[3], variance[3].sqrt())
