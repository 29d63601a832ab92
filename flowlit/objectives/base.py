"""Objectives of two networks that are trained in turns."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from .._support.velocities import evaluate
from ..errors import FlowlitError
from ..types import Objective, Pair, VelocityField


class TwoPlayerObjective(Objective):
    """Training objective of a generator and its critic, a second trained network (``CriticModule``).

    The losses of one game stand together, since they have to match.
    """

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

    def sample(self, generator: VelocityField, pair: Pair) -> Tensor:
        """Return the generator's samples (B, C, H, W) from the noise of a pair: one Euler step by default."""
        return pair.x0 + evaluate(generator, pair.x0, pair.x0.new_zeros(len(pair.x0)), pair.cond)

    def forward(self, velocity: VelocityField, pair: Pair) -> dict[str, Tensor]:
        """Refuse to train one network alone; never returns scalars."""
        raise FlowlitError(
            f"{type(self).__name__} trains a generator and a critic; expected the model "
            "flowlit.modules.CriticModule"
        )


class SampleObjective(TwoPlayerObjective):
    """Objective that looks at samples of the generator, however they are made: several can share them."""

    trains_critic: bool = True
    """Whether it has a loss for the critic."""

    @abstractmethod
    def sample_loss(self, x: Tensor, critic: nn.Module, pair: Pair) -> dict[str, Tensor]:
        """Return scalars () by name, among them ``"loss"``, for samples x (B, C, H, W) with their graph."""

    def critic_sample_loss(self, x: Tensor, critic: nn.Module, pair: Pair) -> dict[str, Tensor]:
        """Return scalars () of the critic by name, ``"loss"`` among them, for samples x without a graph."""
        raise FlowlitError(f"{type(self).__name__} has no loss for a critic")

    def student_loss(self, generator: VelocityField, critic: nn.Module, pair: Pair) -> dict[str, Tensor]:
        """Return scalars () by name, ``"loss"`` among them."""
        return self.sample_loss(self.sample(generator, pair), critic, pair)

    def critic_loss(self, generator: VelocityField, critic: nn.Module, pair: Pair) -> dict[str, Tensor]:
        """Return scalars () by name, ``"loss"`` among them."""
        with torch.no_grad():
            x = self.sample(generator, pair)
        return self.critic_sample_loss(x, critic, pair)
