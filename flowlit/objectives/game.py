"""Several objectives of a generator and its critic, on the same samples."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import FlowlitError
from ..ranges import Float, Name
from ..types import Objective, Pair, VelocityField
from .base import SampleObjective, TwoPlayerObjective
from .distillation import Combined


class CombinedGame(Combined, TwoPlayerObjective):
    """Add objectives of two players, and plain ones of the generator as anchors: loss = Σ weight · loss.

    Objectives of samples share them; the critic's losses are added likewise, with the same weights. DMD is
    ``{"kl": DMD, "regression": Distillation}`` on stored pairs, DMD2 ``{"kl": DMD2, "gan": Adversarial}`` on
    real images.

    Args:
        objectives: by name; at least one is a ``SampleObjective``.
        weights: by name; 1 for those that are missing.

    Raises:
        FlowlitError: without an objective of samples, or with one that draws samples of its own.
    """

    def __init__(self, objectives: dict[Name, Objective], weights: dict[str, Float] | None = None):
        super().__init__(objectives, weights)
        self.games = {name: part for name, part in objectives.items() if isinstance(part, SampleObjective)}
        others = [name for name, part in objectives.items() if isinstance(part, TwoPlayerObjective)]
        if strange := sorted(set(others) - set(self.games)):
            raise FlowlitError(
                f"CombinedGame: {strange} draw samples of their own; expected SampleObjectives"
            )
        if not self.games:
            raise FlowlitError(
                f"CombinedGame: {sorted(objectives)} need no critic; expected an objective of samples, e.g. "
                "{class_path: flowlit.objectives.score_distillation.DMD}, or flowlit.objectives.Combined"
            )

    @property
    def reads_images(self) -> bool:
        return any(game.reads_images for game in self.games.values())

    def student_loss(self, generator: VelocityField, critic: nn.Module, pair: Pair) -> dict[str, Tensor]:
        """Return {"loss": (), and each part's loss, ()}."""
        x = self.sample(generator, pair)
        losses = {name: game.sample_loss(x, critic, pair)["loss"] for name, game in self.games.items()}
        anchors = {name: part for name, part in self.objectives.items() if name not in losses}
        return self.add(losses | {name: anchor(generator, pair)["loss"] for name, anchor in anchors.items()})

    def critic_loss(self, generator: VelocityField, critic: nn.Module, pair: Pair) -> dict[str, Tensor]:
        """Return {"loss": (), and each part's loss, ()}, of those parts that train the critic."""
        with torch.no_grad():
            x = self.sample(generator, pair)
        training = {name: game for name, game in self.games.items() if game.trains_critic}
        return self.add(
            {name: game.critic_sample_loss(x, critic, pair)["loss"] for name, game in training.items()}
        )
