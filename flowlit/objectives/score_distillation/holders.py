"""The two losses of score distillation as objectives."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...ranges import Float
from ...types import Distance, Pair, VelocityField
from ..distances import SquaredError
from .base import ScoreDistillation
from .losses import reverse_kl_loss, score_identity_loss


class ReverseKL(ScoreDistillation):
    """Move samples along the difference of critic and guide, which lessens their reverse KL divergence.

    Neither network is differentiated: a step costs a forward pass of both. DI, DMD and DMD2 are this.
    """

    def loss(self, critic: VelocityField, pair: Pair, t: Tensor) -> tuple[Tensor, Tensor]:
        """Loss (B,) of the pair (fresh noise, sample) at t (B,), and the residual u - v_φ (B, C, H, W)."""
        return reverse_kl_loss(self.guide, critic, pair, t)


class ScoreIdentity(ScoreDistillation):
    """Lessen a distance between critic and guide, differentiated through both networks.

    SiD, SIM and flow generator matching are this. It costs twice as much as ``ReverseKL``, and keeps the
    activations of guide and critic.

    Args:
        guide: as in ``ScoreDistillation``.
        distance: between the two velocities; None is the mean squared error.
        correction: 1 for the gradient of that distance, 0 for the same with the distribution of noised
            samples held fixed (SIM), which is the default; 2 (1 - α) in SiD's α. Below 0 it diverges unless
            normalised.
        options: as in ``ScoreDistillation``.
    """

    def __init__(
        self, guide: nn.Module, distance: Distance | None = None, correction: Float = 0.0, **options: Any
    ):
        super().__init__(guide, **options)
        self.distance = distance or SquaredError()
        self.correction = correction

    def loss(self, critic: VelocityField, pair: Pair, t: Tensor) -> tuple[Tensor, Tensor]:
        """Loss (B,) of the pair (fresh noise, sample) at t (B,), and the residual u - v_φ (B, C, H, W)."""
        return score_identity_loss(
            self.guide, critic, pair, t, distance=self.distance, correction=self.correction
        )
