"""Reflow with a perceptual loss.

Lee et al. 2024 (2405.20320), "Improving the Training of Rectified Flows".
"""

from __future__ import annotations

import torch
from torch import Tensor

from .._support.velocities import evaluate
from ..paths.straight import endpoint, interpolate
from ..types import Distance, Objective, Pair, TimeDistribution, VelocityField
from .distances import LPIPS, VectorPseudoHuber
from .times import UShaped


def lpips_huber_parts(
    velocity: VelocityField,
    pair: Pair,
    t: Tensor,
    *,
    huber: Distance,
    perceptual: Distance,
    divide: bool = True,
) -> tuple[Tensor, Tensor]:
    """t huber( v, x1 - x0 ), and perceptual( x1, x_t + (1 - t) v ) / (1 - t); both (B,), with t (B,) below 1.

    ``divide=False`` leaves out the division. Both are compared in float32 also under autocast: near t = 1
    the predicted image is almost x1, and the rounding error of the difference would be divided by 1 - t.
    """
    x_t = interpolate(pair.x0, pair.x1, t)
    v = evaluate(velocity, x_t, t, pair.cond).float()
    with torch.autocast(v.device.type, enabled=False):
        straight = huber(v, pair.x1 - pair.x0)
        alike = perceptual(pair.x1, endpoint(x_t, v, t))
    return t * straight, alike / (1 - t) if divide else alike


def lpips_huber_loss(
    velocity: VelocityField,
    pair: Pair,
    t: Tensor,
    *,
    huber: Distance,
    perceptual: Distance,
    divide: bool = True,
) -> Tensor:
    """t huber( v, x1 - x0 ) + perceptual( x1, x_t + (1 - t) v ) / (1 - t), (B,), with t (B,) below 1.

    Lee et al. 2024, section 4: configuration F, and without the division (``divide=False``) E.
    """
    parts = lpips_huber_parts(velocity, pair, t, huber=huber, perceptual=perceptual, divide=divide)
    return torch.stack(parts).sum(0)


class LPIPSHuber(Objective):
    """Reflow with a Huber loss of the velocity near the data and a perceptual one of the predicted image.

    Use it on stored pairs of a good teacher, for a student that starts from the teacher's weights. It has no
    β: a student that starts from random weights is trained by ``AnnealedReflow``.

    The paper's LPIPS is VGG with average pooling instead of maxima, on inputs in [0, 1]; ours is
    torch-fidelity's, with maxima and the inputs that LPIPS was trained for, so its numbers differ from
    theirs.

    Args:
        huber: between velocities; None is ``VectorPseudoHuber()``, the paper's.
        perceptual: between images; None is ``LPIPS(resize=224)``.
        times: distribution of the training times, below 1; None is ``UShaped()``, the paper's.
        divide: the perceptual part by 1 - t, as the paper does on CIFAR-10 (configuration F); false for
            ImageNet (E).
    """

    def __init__(
        self,
        huber: Distance | None = None,
        perceptual: Distance | None = None,
        times: TimeDistribution | None = None,
        divide: bool = True,
    ):
        super().__init__()
        self.huber = huber or VectorPseudoHuber()
        self.perceptual = perceptual or LPIPS(resize=224)
        self.times = times or UShaped()
        self.divide = divide

    def forward(self, velocity: VelocityField, pair: Pair) -> dict[str, Tensor]:
        """Return {"loss": (), "huber": (), "perceptual": ()}; the last two are its parts."""
        t = self.times(len(pair.x1), pair.x1.device)
        huber, perceptual = lpips_huber_parts(
            velocity, pair, t, huber=self.huber, perceptual=self.perceptual, divide=self.divide
        )
        self.report(t, huber + perceptual)
        return {
            "loss": (huber + perceptual).mean(),
            "huber": huber.detach().mean(),
            "perceptual": perceptual.detach().mean(),
        }
