"""Training of a denoiser as in EDM. Karras et al. 2022 (2206.00364), section 5."""

from __future__ import annotations

from torch import nn

from ..errors import FlowlitError
from ..ranges import Float, NonNegativeFloat, PositiveFloat
from .reflow import RectifiedFlow
from .times import LogitNormal
from .weights import EDMWeight


class EDMLoss(RectifiedFlow):
    """EDM's loss E λ(σ) · mean (D(y, σ) - x)² with ln σ ~ N(mean, std²), for a network ``EDM``.

    It is a rectified-flow loss. With σ = (1 - t) / t and y = x_t / t, D - x = (1 - t) (v - (x1 - x0)); so the
    log-normal σ becomes a logit-normal t, and λ(σ) (1 - t)² the weight ``EDMWeight``.

    Args:
        mean: of ln σ; -1.2 for CIFAR-10 in the paper.
        std: of ln σ; 1.2 for CIFAR-10 in the paper.
        sigma_data: standard deviation of the data, as in the network's preconditioning; 0.5 for images in
            [-1, 1].
    """

    def __init__(self, mean: Float = -1.2, std: NonNegativeFloat = 1.2, sigma_data: PositiveFloat = 0.5):
        super().__init__(times=LogitNormal(-mean, std), weight=EDMWeight(sigma_data))
        self.sigma_data = sigma_data

    def on_attach(self, module: nn.Module) -> None:
        """Compare ``sigma_data`` with that of the network's preconditioning.

        Raises:
            FlowlitError: if they differ.
        """
        network = getattr(module, "network", None)
        own = getattr(network, "sigma_data", self.sigma_data)
        if own != self.sigma_data:
            raise FlowlitError(
                f"EDMLoss: sigma_data is {self.sigma_data}, but the network's is {own}; make them equal"
            )
