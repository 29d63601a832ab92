"""The two losses of score distillation as objectives."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from ...errors import FlowlitError
from ...ranges import Float
from ...types import Distance, LossWeighting, Pair, TimeDistribution, VelocityField
from ..distances import SquaredError
from ..rewards import RewardWeight
from .adversarial import Adversarial, check_judges, logits_of, mean_of_map
from .base import ScoreDistillation
from .guidance import CFGAugmentation, check_guidable
from .losses import reverse_kl_loss, score_identity_loss
from .ratio import DensityRatio


class ReverseKL(ScoreDistillation):
    """Move samples along the difference of critic and guide, which lessens their reverse KL divergence.

    Neither network is differentiated: a step costs a forward pass of both. DI, DMD and DMD2 are this.

    Args:
        guide: as in ``ScoreDistillation``.
        times: as in ``ScoreDistillation``.
        weight: as in ``ScoreDistillation``.
        ratio: weights that make it another f-divergence, by the critic's logits; another evaluation of it.
        reward: weighs samples; None leaves them equal. What is to be made more of belongs into
            ``RewardGradient``: weights change where a generator goes that cannot be exact, and no more.
        guidance: classifier-free guidance of the guide at times of its own; another two evaluations of it.
        options: as in ``ScoreDistillation``.
    """

    def __init__(
        self,
        guide: nn.Module,
        times: TimeDistribution | None = None,
        weight: LossWeighting | None = None,
        *,
        ratio: DensityRatio | None = None,
        reward: RewardWeight | None = None,
        guidance: CFGAugmentation | None = None,
        **options: Any,
    ):
        super().__init__(guide, times, weight, **options)
        self.ratio = ratio
        self.reward = reward
        self.guidance = guidance
        if guidance is not None:
            check_guidable(guide)

    def on_attach(self, module: nn.Module) -> None:
        """Look for the discriminator of a density ratio, and for the labels of a reward.

        Raises:
            FlowlitError: if the critic has no logits, or they would not be trained; if there are no labels.
        """
        if self.reward is not None:
            self.reward.reward.check(cast(nn.Module, module.network))
        if self.ratio is None:
            return
        check_judges(module, "DensityRatio")
        if not any(isinstance(part, Adversarial) for part in module.modules()):
            raise FlowlitError(
                "DensityRatio: the critic's logits would not be trained; expected a part "
                "{class_path: flowlit.objectives.score_distillation.Adversarial} beside this one in a "
                "flowlit.objectives.CombinedGame"
            )

    def loss(self, critic: VelocityField, pair: Pair, t: Tensor, since: Tensor) -> tuple[Tensor, Tensor]:
        """Loss (B,) of the pair (noise, sample) at t (B,), and the residual u - v_φ (B, C, H, W)."""
        added = None if self.guidance is None else self.guidance(self.guide, pair, t, since)
        seen = self.direction.seen_at(t)
        loss, residual = reverse_kl_loss(
            self.guide, self.compared(critic), pair, t, guidance=added, seen=seen
        )
        if self.ratio is not None:
            with torch.no_grad():
                logits = mean_of_map(logits_of(critic, pair, t))
            loss = self.ratio(logits, t) * loss
        if self.reward is not None:
            loss = self.reward(pair.x1, pair.cond) * loss
        return loss, residual


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

    def loss(self, critic: VelocityField, pair: Pair, t: Tensor, since: Tensor) -> tuple[Tensor, Tensor]:
        """Loss (B,) of the pair (fresh noise, sample) at t (B,), and the residual u - v_φ (B, C, H, W)."""
        return score_identity_loss(
            self.guide,
            self.compared(critic),
            pair,
            t,
            distance=self.distance,
            correction=self.correction,
            seen=self.direction.seen_at(t),
        )
