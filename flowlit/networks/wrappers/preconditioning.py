"""EDM's preconditioned network, as a velocity and as a denoiser. Karras et al. 2022 (2206.00364)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...errors import FlowlitError
from ...paths.straight import expand
from ...ranges import PositiveFloat
from ...types import Cond
from ..layers import time_scale_of
from .base import VelocityWrapper


class EDM(VelocityWrapper):
    """Predict a velocity with a network that EDM's preconditioning surrounds: (x, t, cond) -> (B, C, H, W).

    With σ = (1 - t) / t, y = x / t, s = sigma_data and the denoiser

        D(y, σ) = s² / (σ² + s²) · y + σ s / √(σ² + s²) · F(y / √(σ² + s²), ln σ / 4)

    (table 1), the velocity is v = (D - x) / (1 - t), which is, without a division by 0 at either end,

        v(x, t) = (s² t - (1 - t)) / q · x + s / √q · F(x / √q, ln σ / 4),     q = (1 - t)² + s² t².

    Only the noise level that F takes is clamped to the range that EDM trains, t in [1/81, 1/1.002] with the
    defaults.

    Args:
        network: F, called as (x, ln σ / 4, cond): ``UNet(time_scale=1, early_label=True)`` or
            ``ADM(time_scale=1)``.
        sigma_data: standard deviation of the data.
        sigma_min: smallest noise level that F takes.
        sigma_max: largest.
    """

    def __init__(
        self,
        network: nn.Module,
        sigma_data: PositiveFloat = 0.5,
        sigma_min: PositiveFloat = 0.002,
        sigma_max: PositiveFloat = 80.0,
    ):
        if sigma_min >= sigma_max:
            raise FlowlitError(f"EDM: expected sigma_min < sigma_max, found {sigma_min} and {sigma_max}")
        scale = time_scale_of(network)
        if scale != 1:
            raise FlowlitError(
                f"EDM: the network inside must have time_scale 1, since it is told ln σ / 4; found {scale:g}"
            )
        super().__init__(network, sigma_data=sigma_data, sigma_min=sigma_min, sigma_max=sigma_max)
        self.sigma_data = sigma_data
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max

    def forward(self, x: Tensor, t: Tensor, cond: Cond = {}) -> Tensor:
        """Return the velocity (B, C, H, W) at x (B, C, H, W) and t (B,), under conditions (B, …)."""
        kind = torch.promote_types(torch.promote_types(t.dtype, x.dtype), torch.float32)
        t = t.to(kind)
        given = x.dtype
        x = x.to(kind)
        level = self._level(t)
        cond = self.with_second_time(t, cond, self._time_input)
        t = expand(t, x)
        s = self.sigma_data
        q = (1 - t) ** 2 + s**2 * t**2
        prediction = self._predict(x / q.sqrt(), level, cond)
        return ((s**2 * t - (1 - t)) / q * x + s / q.sqrt() * prediction).to(given)

    def denoiser(self, y: Tensor, sigma: Tensor | float, cond: Cond = {}) -> Tensor:
        """Return D(y, σ), the mean of the data x given y = x + σ · noise, (B, C, H, W).

        σ is (B,), (B, 1, 1, 1) or one number, and is not clamped. Computed in float32 at least; the result
        has the type of y.
        """
        kind = torch.promote_types(y.dtype, torch.float32)
        given = y.dtype
        sigma = torch.as_tensor(sigma, dtype=kind, device=y.device).reshape(-1).expand(y.shape[0])
        y = y.to(kind)
        level = expand(sigma, y)
        s = self.sigma_data
        total = level**2 + s**2
        cond = self.with_second_time(1 / (1 + sigma), cond, self._time_input)
        prediction = self._predict(y / total.sqrt(), sigma, cond)
        return (s**2 / total * y + level * s / total.sqrt() * prediction).to(given)

    def _level(self, t: Tensor) -> Tensor:
        """Return the noise level σ (B,) that F takes at t (B,)."""
        return ((1 - t) / t).clamp(self.sigma_min, self.sigma_max)

    def _time_input(self, t: Tensor) -> Tensor:
        return self._level(t).log() / 4

    def _predict(self, scaled: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        """Evaluate F in the precision of its weights, at a noise level of full precision."""
        weights = next((parameter.dtype for parameter in self.network.parameters()), scaled.dtype)
        return self.network(scaled.to(weights), sigma.log() / 4, cond).to(scaled.dtype)
