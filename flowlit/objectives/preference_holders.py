"""Preferences as objectives: a reward says which of two images is better, and a reference stays near."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from .. import rng
from .._support.velocities import evaluate
from ..errors import FlowlitError
from ..frozen import Frozen
from ..paths.straight import endpoint, interpolate
from ..ranges import Fraction, PositiveFloat, Share
from ..types import Objective, Pair, TimeDistribution, VelocityField
from .distillation import one_step
from .preference import offline_preference_loss, preference_loss, step_log_ratio
from .rewards import Reward
from .times import Uniform


class _Preference(Objective):
    """A reward of images, a frozen reference, and β: the parts of both objectives."""

    def __init__(self, reference: nn.Module, reward: Reward, beta: PositiveFloat):
        super().__init__()
        self.reference = Frozen(reference)
        self.reward = reward
        self.beta = beta

    def on_attach(self, module: nn.Module) -> None:
        self.reward.check(module.network)  # type: ignore[arg-type]
        module.trains_flow = False  # type: ignore[assignment]

    def _first_is_better(self, one: Tensor, other: Tensor, pair: Pair) -> tuple[Tensor, Tensor]:
        """Return whether images (B, C, H, W) have larger rewards than others, (B, 1, 1, 1), and the mean."""
        with torch.no_grad():
            rewards = [self.reward(x, pair.cond).float() for x in (one, other)]
        return (rewards[0] >= rewards[1])[:, None, None, None], torch.stack(rewards).mean()


class PSO(_Preference):
    """Pairwise sample optimisation of a one-step generator, on pairs of its own that it makes in training.

    The sample of a noise is gone on from twice, with noise of its own each: ``ReNoise``'s step to a time t,
    whose density depends on the sample. A reward compares the two ends, and the density of the better one's
    step is raised against the other's, relative to that of the reference. Ratios of densities outside of 1 ±
    ``clamp`` have no gradient, which keeps the generator near the reference: its sample moves by about
    (2 ``clamp``)^½ (1 - t) / t at most. Rewards need no gradient. Miao et al. 2024 (2410.03190), online.

    Args:
        reference: the generator before, a network of its own (``flowlit.networks.pretrained``); frozen.
        reward: of images; of latents by ``flowlit.data.DecodedReward``.
        time: t.
        steps: 2 lets the generator take the step after t, and compares its images; 1 compares the samples
            with their noise, of deviation (1 - t) / t, for networks that were trained at time 0 alone.
        beta: β, of the mean over the entries of an image.
        clamp: largest change of a ratio.
    """

    def __init__(
        self,
        reference: nn.Module,
        reward: Reward,
        time: Share = 0.9,
        steps: Literal[1, 2] = 1,
        beta: PositiveFloat = 1.0,
        clamp: Fraction = 0.1,
    ):
        super().__init__(reference, reward, beta)
        if steps not in (1, 2):
            raise FlowlitError(f"PSO: steps is {steps!r}; expected 1 or 2")
        if time == 1 or clamp == 0:
            raise FlowlitError(
                f"PSO: time is {time}, clamp {clamp}; expected a time below 1, where there is noise, and a "
                "clamp above 0, within which there are gradients"
            )
        self.time = time
        self.steps: Literal[1, 2] = steps
        self.clamp = clamp

    def forward(self, velocity: VelocityField, pair: Pair) -> dict[str, Tensor]:
        """Return {"loss": (), "reward": ()}; of the pair the noise and the conditions are used."""
        x, _ = one_step(velocity, pair.x0, pair.cond)
        with torch.no_grad():
            before, _ = one_step(self.reference, pair.x0, pair.cond)
        t = x.new_full((len(x),), self.time, dtype=torch.float32)
        one = interpolate(rng.randn_like(x), x.detach(), t)
        other = interpolate(rng.randn_like(x), x.detach(), t)
        first, reward = self._first_is_better(
            self._image(velocity, one, t, pair), self._image(velocity, other, t, pair), pair
        )
        better = step_log_ratio(torch.where(first, one, other), x, before, t)
        worse = step_log_ratio(torch.where(first, other, one), x, before, t)
        loss = preference_loss(better, worse, beta=self.beta, clamp=self.clamp)
        return {"loss": loss.mean(), "reward": reward}

    @torch.no_grad()
    def _image(self, velocity: VelocityField, y: Tensor, t: Tensor, pair: Pair) -> Tensor:
        """Return what a reward looks at, (B, C, H, W), of states y (B, C, H, W) at t (B,)."""
        if self.steps == 1:
            return y / self.time
        return endpoint(y, evaluate(velocity, y, t, pair.cond), t)


class OfflinePSO(_Preference):
    """Preferences between stored images and those of the reference, of the same noise.

    A reward compares the pair's image with the one-step sample of the reference, and the velocity is drawn to
    the better one of them, from the other, as ``offline_preference_loss`` has it. At t = 0 alone it has no
    bounds: combine it with ``Distillation``, or take times above 0. Miao et al. 2024 (2410.03190), offline.

    Args:
        reference: the generator before, a network of its own; frozen.
        reward: of images; of latents by ``flowlit.data.DecodedReward``.
        times: at which the velocity is compared; None is uniform on [0, 1).
        beta: β, of the mean over the entries of an image.
    """

    def __init__(
        self,
        reference: nn.Module,
        reward: Reward,
        times: TimeDistribution | None = None,
        beta: PositiveFloat = 1.0,
    ):
        super().__init__(reference, reward, beta)
        self.times = times or Uniform()

    def forward(self, velocity: VelocityField, pair: Pair) -> dict[str, Tensor]:
        """Return {"loss": (), "reward": ()}."""
        with torch.no_grad():
            before, _ = one_step(self.reference, pair.x0, pair.cond)
        first, reward = self._first_is_better(pair.x1, before, pair)
        better = pair._replace(x1=torch.where(first, pair.x1, before))
        worse = torch.where(first, before, pair.x1)
        t = self.times(len(pair.x0), pair.x0.device)
        loss = offline_preference_loss(velocity, self.reference, better, worse, t, beta=self.beta)
        return {"loss": loss.mean(), "reward": reward}
