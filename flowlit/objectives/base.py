"""Objectives of two networks that are trained in turns."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import FlowlitError
from ..types import Objective, Pair, VelocityField
from .rollout import Rolled, Rollout


class TwoPlayerObjective(Objective):
    """Training objective of a generator and its critic, a second trained network (``CriticModule``).

    The losses of one game stand together, since they have to match.
    """

    rollout: Rollout | None = None
    """Steps of the generator; None is one."""

    @property
    def reads_images(self) -> bool:
        """Need of real images as the x1 of pairs."""
        return False

    @abstractmethod
    def student_loss(self, generator: VelocityField, critic: nn.Module, pair: Pair) -> dict[str, Tensor]:
        """Return scalars () by name, among them ``"loss"``. The critic's weights get no gradients."""

    def critic_loss(self, generator: VelocityField, critic: nn.Module, pair: Pair) -> dict[str, Tensor]:
        """Return scalars () by name, ``"loss"`` among them; the generator's weights get no gradients.

        Raises:
            FlowlitError: unless overridden, which is not needed where the critic has an objective of its own.
        """
        raise FlowlitError(
            f"{type(self).__name__} has no loss for a critic; found no critic.objective, expected one, e.g. "
            "{class_path: flowlit.objectives.RectifiedFlow}"
        )

    def roll(self, generator: VelocityField, pair: Pair, steps: Sequence[int] | None = None) -> Rolled:
        """Return samples (B, C, H, W) from the noise of a pair, of steps drawn among ``steps``, or all."""
        return (self.rollout or Rollout(1))(generator, pair, steps)

    def sample(self, generator: VelocityField, pair: Pair) -> Tensor:
        """Return the generator's samples (B, C, H, W) from the noise of a pair: one Euler step by default."""
        return self.roll(generator, pair).x

    def forward(self, velocity: VelocityField, pair: Pair) -> dict[str, Tensor]:
        """Refuse to train one network alone; never returns scalars."""
        raise FlowlitError(
            f"{type(self).__name__} trains a generator and a critic; expected the model "
            "flowlit.modules.CriticModule"
        )


class SampleObjective(TwoPlayerObjective):
    """Objective that looks at samples of the generator, however they are made: several can share them.

    Args:
        rollout: how a generator of several steps makes them; None is one step.
    """

    trains_critic: bool = True
    """Whether it has a loss for the critic."""

    def __init__(self, rollout: Rollout | None = None):
        super().__init__()
        self.rollout = rollout

    @abstractmethod
    def sample_loss(self, x: Tensor, critic: nn.Module, pair: Pair) -> dict[str, Tensor]:
        """Return scalars () by name, among them ``"loss"``, for samples x (B, C, H, W) with their graph."""

    def critic_sample_loss(self, x: Tensor, critic: nn.Module, pair: Pair) -> dict[str, Tensor]:
        """Return scalars () of the critic by name, ``"loss"`` among them, for samples x without a graph."""
        raise FlowlitError(f"{type(self).__name__} has no loss for a critic")

    def rolled_loss(self, rolled: Rolled, critic: nn.Module, pair: Pair) -> dict[str, Tensor]:
        """Return ``sample_loss``, scalars () by name; override it where the step of a sample matters."""
        return self.sample_loss(rolled.x, critic, pair)

    def critic_rolled_loss(self, rolled: Rolled, critic: nn.Module, pair: Pair) -> dict[str, Tensor]:
        """Return ``critic_sample_loss``, scalars () by name, likewise."""
        return self.critic_sample_loss(rolled.x, critic, pair)

    def student_loss(self, generator: VelocityField, critic: nn.Module, pair: Pair) -> dict[str, Tensor]:
        """Return scalars () by name, ``"loss"`` among them."""
        return self.rolled_loss(self.roll(generator, pair), critic, pair)

    def critic_loss(self, generator: VelocityField, critic: nn.Module, pair: Pair) -> dict[str, Tensor]:
        """Return scalars () by name, ``"loss"`` among them."""
        with torch.no_grad():
            rolled = self.roll(generator, pair)
        return self.critic_rolled_loss(rolled, critic, pair)
