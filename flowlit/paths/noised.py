"""The start of a flow from a degraded image: near that image."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, zeros_like

from ..errors import FlowlitError
from ..ranges import Checked, NonNegativeFloat
from .straight import anneal


@dataclass
class NoisedImage(Checked):
    """The degraded image c, brought to size, and noise ε: x0 = √(1 - σ²) c + σ ε, or c + σ ε.

    The first is OFTSR's (2412.09465), with σ 0.1 (faces) to 0.5 (faces with noise), 0.2 for photographs; σ 0
    starts from the image (InDI, 2303.11435), σ 1 from noise alone (SR3, 2104.07636). The second, with σ = κ =
    2, is ResShift's (2307.12348). More noise makes results more varied, and the flow harder to integrate.

    Args:
        sigma: σ; up to 1 where the variance is preserved.
        preserve_variance: the first of the two.
    """

    sigma: NonNegativeFloat
    preserve_variance: bool = True

    def __post_init__(self) -> None:
        if self.preserve_variance and self.sigma > 1:
            raise FlowlitError(
                f"NoisedImage: sigma is {self.sigma:g}; expected 0 to 1, or preserve_variance: false"
            )

    def __call__(self, image: Tensor, noise: Tensor) -> Tensor:
        """Return x0 (B, C, H, W) of degraded images and noise N(0, 1), both (B, C, H, W)."""
        share = (1 - self.sigma**2) ** 0.5 if self.preserve_variance else 1.0
        return share * image + self.sigma * noise

    def annealed(self, x0: Tensor, image: Tensor, noise: Tensor, beta: float) -> Tensor:
        """Mix a share beta of fresh noise into the noise of a start, all (B, C, H, W).

        The law of the result given the image is that of x0, for every beta in [0, 1].
        """
        mean = self(image, zeros_like(image))
        return mean + anneal(x0 - mean, self.sigma * noise, beta)
