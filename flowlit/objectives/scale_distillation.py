"""Scale distillation for super-resolution. Noroozi et al. 2024 (YONOS-SR, 2401.17258)."""

from __future__ import annotations

from torch import Tensor, nn

from ..errors import FlowlitError
from ..types import Cond, Distance, LossWeighting, Pair, TimeDistribution, VelocityField
from .velocity_matching import VelocityMatching, velocity_matching_loss
from .weights import Remaining

GUIDE_IMAGE = "guide_image"
"""Condition of the guide: the image from the smaller factor, at full size, (B, C, H, W)."""


def scale_distillation_loss(
    velocity: VelocityField, guide: VelocityField, pair: Pair, t: Tensor, *, distance: Distance
) -> Tensor:
    """d( v(x_t, t, c_N), v_φ(x_t, t, c_(N/2)) ), (B,), at t (B,): the guide sees a smaller factor.

    c_N is ``pair.cond["image"]``, c_(N/2) ``pair.cond["guide_image"]``. No gradient reaches the guide.
    """
    others = without_guide_image(pair.cond)
    guided = {**others, "image": pair.cond[GUIDE_IMAGE]}
    return velocity_matching_loss(
        velocity, guide, pair._replace(cond=others), t, distance=distance, guide_cond=guided
    )


def without_guide_image(cond: Cond) -> Cond:
    """Return the conditions (B, …) of the student.

    Raises:
        FlowlitError: if there is none for the guide.
    """
    if GUIDE_IMAGE not in cond or "image" not in cond:
        raise FlowlitError(
            f"ScaleDistillation: expected cond['image'] and cond['{GUIDE_IMAGE}'], found "
            f"{', '.join(cond) or 'no condition'}; give flowlit.couplings.SuperResolution guide_steps"
        )
    return {name: value for name, value in cond.items() if name != GUIDE_IMAGE}


class ScaleDistillation(VelocityMatching):
    """Train super-resolution by a large factor on a guide's predictions from a smaller one (YONOS-SR).

    A guide for ×2 makes a student for ×4, which makes one for ×8; each begins with the weights of its guide.
    Both are at the same x_t. The minimum is that of ``RectifiedFlow`` if the smaller image decides the larger
    factor's (average pooling does, without noise); the target has less variance: half of it in a Gaussian
    example from ×2 to ×4. Otherwise the minimum is biased a little.

    The start must be the same for both: N(0, I), or the student's noised image, on which then the guide has
    to be trained, too.

    Args:
        guide: velocity of the smaller factor; frozen, absent from checkpoints.
        distance: between velocities; None is the mean squared error.
        times: distribution of the training times; None is uniform on [0, 1).
        weight: of each sample by its time; None is (1 - t)², which compares predictions of the image.
    """

    def __init__(
        self,
        guide: nn.Module,
        distance: Distance | None = None,
        times: TimeDistribution | None = None,
        weight: LossWeighting | None = None,
    ):
        super().__init__(guide, distance, times, weight or Remaining())

    def conditions(self, cond: Cond) -> Cond:
        """Return the conditions (B, …) of the student."""
        return without_guide_image(cond)

    def loss(self, velocity: VelocityField, pair: Pair, t: Tensor) -> Tensor:
        """Loss of each sample at its time t (B,), (B,), before any weighting."""
        return scale_distillation_loss(velocity, self.guide, pair, t, distance=self.distance)
