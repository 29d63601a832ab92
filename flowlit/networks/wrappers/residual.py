"""Networks of ResShift as velocities. Yue et al. 2023 (2307.12348)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ...errors import FlowlitError
from ...paths.residual import ResShift
from ...paths.straight import expand
from ...types import Cond
from ..checkpoints.spec import spec
from .base import VelocityWrapper
from .diffusion import DiffusionVelocity

InputScale = Literal["latents", "pixels", "none"]


class ResShiftVelocity(DiffusionVelocity):
    """The velocity of a network that predicts x from ResShift's x_η, around the image c = cond["image"].

    In residual coordinates x - c the chain is a diffusion (``flowlit.paths.ResShift``), and the change of
    variables that of ``DiffusionVelocity``: the straight path starts from x0 = c + κ ε. The network is called
    as (x_η / scale, k - 1, cond), at the place k between steps where the path is.

    Use it for weights of ResShift, and to train a network in its parameterisation.

    Args:
        network: predicts x (B, C, H, W); it gets all conditions; put one that takes none into
            ``ConcatenatedImage``.
        diffusion: the chain.
        scale: the input is divided by √(1 + κ² η) ("latents"), 1 + 3 κ √η ("pixels") or nothing ("none").
    """

    def __init__(self, network: nn.Module, diffusion: ResShift, scale: InputScale = "latents"):
        VelocityWrapper.__init__(self, network, diffusion=spec(diffusion), scale=scale)
        self.diffusion: ResShift = diffusion
        self.predicts = "x0"
        self.scale = scale

    @property
    def reads(self) -> frozenset[str]:
        """Names of the conditions of the network inside, and the image."""
        return (super().reads or frozenset()) | {"image"}

    def forward(self, x: Tensor, t: Tensor, cond: Cond = {}) -> Tensor:
        """Return the velocity (B, C, H, W) at x (B, C, H, W) and t (B,), under cond["image"] (B, C, H, W).

        Raises:
            FlowlitError: without an image of the shape of x.
        """
        image = cond.get("image")
        if image is None or image.shape != x.shape:
            shown = "none" if image is None else str(tuple(image.shape))
            raise FlowlitError(
                f"ResShiftVelocity: expected cond['image'] {tuple(x.shape)}, the degraded image at the size "
                f"of x, found {shown}; use flowlit.couplings.SuperResolution"
            )
        return super().forward(x - image, t, cond)

    def predict(self, noisy: Tensor, ratio: Tensor, cond: Cond) -> Tensor:
        """Return the predicted x - c (B, C, H, W) from x_η - c (B, C, H, W), at √η / (1 - η) (B,)."""
        image = cond["image"]
        state = (noisy + image) / expand(self._scale_of_input(ratio), noisy)
        return super().predict(state.to(noisy.dtype), ratio, cond) - image

    def _scale_of_input(self, ratio: Tensor) -> Tensor:
        noise = self.diffusion.kappa * self.diffusion.root(ratio)
        if self.scale == "latents":
            return (1 + noise**2).sqrt()
        return 1 + 3 * noise if self.scale == "pixels" else torch.ones_like(noise)
