"""The two uses of a reward: its gradient, and weights of samples."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...errors import FlowlitError
from ...ranges import Checked, Float, OneLine, PositiveFloat
from ...types import Cond, Pair, VelocityField
from ..base import SampleObjective
from .base import Reward


class RewardGradient(SampleObjective):
    """Raise the reward of the generator's samples, through its gradient: the loss is -r(x) / temperature.

    Together with score distillation (``CombinedGame``) the generator's distribution tilts from the guide's p
    to p · exp(r / T), by the gradient of the reverse KL divergence. Losses of score distillation are averaged
    over the d entries of an image, so that T is ``temperature`` / d for the weight of that divergence,
    ``Powers(2, -1)``. It needs no critic, and in ``Combined`` takes any anchor; alone it has nothing to hold
    it.

    Args:
        reward: that has a gradient.
        temperature: the smaller, the more the reward counts.
    """

    trains_critic = False

    def __init__(self, reward: Reward, temperature: PositiveFloat = 1.0):
        super().__init__()
        if not reward.differentiable:
            raise FlowlitError(
                f"RewardGradient: {type(reward).__name__} has no gradient; expected one that has, or a "
                "flowlit.objectives.rewards.RewardWeight as reward of ReverseKL"
            )
        self.reward = reward
        self.temperature = temperature

    def on_attach(self, module: nn.Module) -> None:
        self.reward.check(module.network)  # type: ignore[arg-type]
        module.trains_flow = False  # type: ignore[assignment]

    def sample_loss(self, x: Tensor, critic: nn.Module, pair: Pair) -> dict[str, Tensor]:
        """Return {"loss": (), "reward": ()} of the generator's samples x (B, C, H, W)."""
        reward = self.reward(x, pair.cond).mean()
        return {"loss": -reward / self.temperature, "reward": reward.detach()}

    def forward(self, velocity: VelocityField, pair: Pair) -> dict[str, Tensor]:
        """Return {"loss": (), "reward": ()}: there is no critic in it."""
        return self.sample_loss(self.sample(velocity, pair), nn.Identity(), pair)


class RewardWeight(OneLine, Checked, nn.Module):
    """Weights of samples by their rewards: exp(β (r - mean r) / std r), clipped, divided by their mean.

    Mean and deviation are of the rows that a device works on at a time; one row, or equal rewards, weigh 1.
    Re-DMD (2512.04678), whose own code weighs by exp(β r) without any normalisation.

    Args:
        reward: of any kind, also without a gradient.
        beta: β; 2 in the paper.
        clip: largest weight before the division.
    """

    def __init__(self, reward: Reward, beta: Float = 2.0, clip: PositiveFloat = 5.0):
        super().__init__()
        self.reward = reward
        self.beta = beta
        self.clip = clip

    @torch.no_grad()
    def forward(self, x: Tensor, cond: Cond = {}) -> Tensor:
        """Return weights (B,) without a graph, of samples x (B, C, H, W); their mean is 1."""
        rewards = self.reward(x, cond).double()
        centred = rewards - rewards.mean()
        deviation = centred.square().mean().sqrt().clamp_min(1e-6 * rewards.abs().max() + 1e-30)
        weights = (self.beta * centred / deviation).exp().clamp_max(self.clip)
        return (weights / weights.mean()).to(x.dtype)
