"""The shared part of score distillation: guide, times, weights, and the critic's flow matching."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ... import rng
from ..._support.modes import evaluating
from ..._support.velocities import guided
from ...frozen import Frozen
from ...ranges import Float, Fraction, PositiveFloat
from ...types import Cond, LossWeighting, Pair, TimeDistribution, VelocityField
from ..base import SampleObjective
from ..distances import per_sample
from ..reflow import RectifiedFlow
from ..rollout import Rolled, Rollout
from ..times import Uniform


class Direction:
    """The size of the direction y that samples are moved in, by time: it falls as critic and guide agree."""

    observer: Callable[[Tensor, Tensor], None] | None = None
    """As an objective's, with the root of the mean of y² over entries in place of losses."""

    def seen_at(self, t: Tensor) -> Callable[[Tensor], None]:
        """Return what is called with y (B, C, H, W) at t (B,)."""

        def see(y: Tensor) -> None:
            if self.observer is not None:
                self.observer(t.detach(), per_sample(y**2).sqrt())

        return see


class ScoreDistillation(SampleObjective):
    """Draw the generator's samples to a guide's distribution, with a critic that follows the samples.

    The critic is a velocity of the samples. It is trained by flow matching on fresh noise, at the times and
    with the weights given here, unless it has an objective of its own.

    Args:
        guide: a velocity of the data, a 1-rectified flow or a diffusion's; frozen, absent from checkpoints.
            A reflowed or distilled network is no guide: its velocity is not that of fresh noise.
        times: at which guide and critic are compared; None is uniform on [0.02, 0.98).
        weight: of each sample by its time; None is 1.
        normalise: divide each sample's loss by the mean of |u - v_φ| over its entries, as in DMD.
        floor: smallest such mean; the guide is nearly exact at t = 1.
        critic_times: at which the critic is trained; None is ``times``. It must be trained wherever it is
            compared.
        critic_weight: of each sample by its time; None is 1.
        real: share of real images, the x1 of ``couplings.Independent``, among those that the critic follows.
        rollout: how a generator of several steps makes its samples; None is one step.
        critic_scale: of the critic's classifier-free guidance where it is compared, not where it is trained:
            0 without its label (Zero-CFG), below 0 away from it (Anti-CFG), in place of a guided guide. The
            critic must be trained with ``label_dropout``. 2505.12674.
    """

    def __init__(
        self,
        guide: nn.Module,
        times: TimeDistribution | None = None,
        weight: LossWeighting | None = None,
        normalise: bool = True,
        floor: PositiveFloat = 1e-6,
        critic_times: TimeDistribution | None = None,
        critic_weight: LossWeighting | None = None,
        real: Fraction = 0.0,
        rollout: Rollout | None = None,
        critic_scale: Float = 1.0,
    ):
        super().__init__(rollout)
        self.guide = Frozen(guide)
        self.times = times or Uniform(0.02, 0.98)
        self.weight = weight
        self.normalise = normalise
        self.floor = floor
        self.critic_scale = critic_scale
        self.flow_matching = RectifiedFlow(times=critic_times or self.times, weight=critic_weight)
        self.real = real
        self.direction = Direction()

    @property
    def reports(self) -> dict[str, Any]:
        """Reporters by name: what is reported by time beside the loss."""
        return {"critic": self.flow_matching, "direction": self.direction}

    @property
    def reads_images(self) -> bool:
        return self.real > 0

    @abstractmethod
    def loss(self, critic: VelocityField, pair: Pair, t: Tensor, since: Tensor) -> tuple[Tensor, Tensor]:
        """Loss (B,) of the pair (fresh noise, sample) at t (B,), and the residual u - v_φ (B, C, H, W).

        The step that made the sample started at ``since`` (B,).
        """

    def compared(self, critic: VelocityField) -> VelocityField:
        """Return the critic's velocity as it is compared with the guide's."""
        return critic if self.critic_scale == 1 else partial(guided, critic, scale=self.critic_scale)

    def noised(self, rolled: Rolled, cond: Cond) -> tuple[Pair, Tensor]:
        """Return the pair (noise, sample) of a sample (B, C, H, W), and the time t (B,) of their mixture."""
        t = self.times(len(rolled.x), rolled.x.device)
        return Pair(rng.randn_like(rolled.x), rolled.x, cond), t

    def sample_loss(self, x: Tensor, critic: nn.Module, pair: Pair) -> dict[str, Tensor]:
        """Return {"loss": ()} of the generator's samples x (B, C, H, W), made in one step."""
        since = x.new_zeros(len(x))
        return self.rolled_loss(Rolled(x, since.long(), since, since + 1, pair.x0), critic, pair)

    def rolled_loss(self, rolled: Rolled, critic: nn.Module, pair: Pair) -> dict[str, Tensor]:
        """Return {"loss": ()} of samples (B, C, H, W), each of its own step."""
        noised, t = self.noised(rolled, pair.cond)
        with evaluating(critic):
            loss, residual = self.loss(critic, noised, t, rolled.since)
        self.report(t, loss)
        return {"loss": (self.weights(t, residual) * loss).mean()}

    def critic_sample_loss(self, x: Tensor, critic: nn.Module, pair: Pair) -> dict[str, Tensor]:
        """Return {"loss": ()} of flow matching on the samples x (B, C, H, W), and a share of real images."""
        losses = self.flow_matching(critic, Pair(rng.randn_like(x), x, pair.cond))
        if not self.real:
            return losses
        of_images = self.flow_matching(critic, pair._replace(x0=rng.randn_like(x)))
        return {"loss": (1 - self.real) * losses["loss"] + self.real * of_images["loss"]}

    def weights(self, t: Tensor, residual: Tensor) -> Tensor:
        """Weights of the samples (B,), by their times (B,) and the guide's residuals u - v_φ (B, C, H, W)."""
        weights = torch.ones_like(t) if self.weight is None else self.weight(t)
        if self.normalise:
            weights = weights / per_sample(residual.detach().abs()).clamp_min(self.floor)
        return weights
