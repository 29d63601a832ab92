"""Networks of other diffusions as velocities."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ...errors import FlowlitError
from ...paths.straight import expand
from ...types import Cond, Diffusion
from ..checkpoints.spec import spec
from .base import VelocityWrapper

Predicts = Literal["epsilon", "x0", "v"]


class DiffusionVelocity(VelocityWrapper):
    """The velocity of a diffusion network, by the exact change of variables: (x, t, cond) -> (B, C, H, W).

    The network is called as (α x1 + σ ε, τ, cond), at the noise level where σ / α = (1 - t) / t. Its output
    determines the data x̂ and the noise ε̂, and v = x̂ - ε̂. Outside of the levels of the diffusion it is
    evaluated at the nearest one; v is then (x̂ - x) / (1 - t) near noise, and (x - ε̂) / t near data.

    Use it for ε-, x0- and v-prediction networks (DDPM, score SDE, Stable Diffusion), and for a denoiser D(y,
    σ, cond): ``predicts: x0`` with ``flowlit.paths.VE(conditioning="sigma")``. EDM's own networks are better
    served by ``EDM``.

    Args:
        network: the diffusion network.
        diffusion: its α, σ, and the time input that stands for them.
        predicts: "epsilon" the noise, "x0" the data (as diffusion papers call it), "v" = α ε - σ x
            (2202.00512).
    """

    def __init__(self, network: nn.Module, diffusion: Diffusion, predicts: Predicts = "epsilon"):
        if predicts == "v" and not diffusion.preserves_variance:
            raise FlowlitError(
                "DiffusionVelocity: v-prediction is defined for variance-preserving diffusions only"
            )
        super().__init__(network, diffusion=spec(diffusion), predicts=predicts)
        self.diffusion = diffusion
        self.predicts = predicts

    def forward(self, x: Tensor, t: Tensor, cond: Cond = {}) -> Tensor:
        """Return the velocity (B, C, H, W) at x (B, C, H, W) and t (B,), under conditions (B, …)."""
        t = t.to(torch.promote_types(t.dtype, x.dtype))
        ratio = ((1 - t) / t).clamp(*self.diffusion.range)
        near_noise = expand(t < 0.5, x)
        alpha = expand(self.diffusion.alpha(ratio), x)
        sigma = alpha * expand(ratio, x)
        t_ = expand(t, x)
        # each is 0.5 where the other is used
        to_data = torch.where(near_noise, 1 - t_, 0.5)
        to_noise = torch.where(near_noise, 0.5, t_)
        level = torch.where(
            near_noise, sigma / to_data, alpha / to_noise
        )  # so that the noise, or the data, has the right size
        noisy = (level * x).to(x.dtype)
        output = self.predict(noisy, ratio, self.with_second_time(t, cond, self._time_input)).to(x.dtype)
        data, noise = self._data_and_noise(noisy, output, alpha, sigma)
        return torch.where(near_noise, (data - x) / to_data, (x - noise) / to_noise).to(x.dtype)

    def predict(self, noisy: Tensor, ratio: Tensor, cond: Cond) -> Tensor:
        """Return the network's prediction (B, C, H, W) from α x1 + σ ε (B, C, H, W), at σ / α (B,)."""
        return self.network(noisy, self.diffusion.time_input(ratio), cond)

    def _time_input(self, t: Tensor) -> Tensor:
        return self.diffusion.time_input(((1 - t) / t).clamp(*self.diffusion.range))

    def _data_and_noise(
        self, noisy: Tensor, output: Tensor, alpha: Tensor, sigma: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the data and the noise that an output of the network stands for."""
        if self.predicts == "epsilon":
            return (noisy - sigma * output) / alpha, output
        if self.predicts == "x0":
            return output, (noisy - alpha * output) / sigma
        return alpha * noisy - sigma * output, sigma * noisy + alpha * output
