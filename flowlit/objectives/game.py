"""Several objectives of a generator and its critic, on the same samples."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import FlowlitError
from ..paths.straight import expand
from ..ranges import Float, Name, NonNegativeInt
from ..types import Objective, Pair, VelocityField
from .base import SampleObjective, TwoPlayerObjective
from .distillation import Combined
from .rollout import Rolled, Rollout


class CombinedGame(Combined, TwoPlayerObjective):
    """Add objectives of two players, and plain ones of the generator as anchors: loss = Σ weight · loss.

    Objectives of samples share them; the critic's losses are added likewise, with the same weights. DMD is
    ``{"kl": DMD, "regression": Distillation}`` on stored pairs, DMD2 ``{"kl": DMD2, "gan": Adversarial}`` on
    real images.

    Args:
        objectives: by name; at least one is a ``SampleObjective``.
        weights: by name; 1 for those that are missing.
        rollout: how a generator of several steps makes the samples; None is that of an objective, if one has
            a roll-out, or one step.
        steps: of the roll-out that an objective of samples acts on, by its name, from 0; all for those that
            are missing. Flash-DMD has distribution matching on the first ones, and a discriminator on the
            last. The other samples of a batch give no gradient, and the critic's loss of that objective is of
            samples of its own steps.

    Raises:
        FlowlitError: without an objective of samples, with one that draws samples of its own, or for steps or
            roll-outs that do not fit.
    """

    def __init__(
        self,
        objectives: dict[Name, Objective],
        weights: dict[str, Float] | None = None,
        rollout: Rollout | None = None,
        steps: dict[str, list[NonNegativeInt]] | None = None,
    ):
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
        self.rollout = common_rollout([rollout, *(game.rollout for game in self.games.values())])
        self.steps = steps or {}
        self._check_steps()

    def _check_steps(self) -> None:
        k = self.rollout.k if self.rollout else 1
        for name, steps in self.steps.items():
            if name not in self.games:
                raise FlowlitError(
                    f"CombinedGame: steps for {name}; expected an objective of samples, one of "
                    f"{sorted(self.games)}"
                )
            if not steps or len(set(steps)) < len(steps) or max(steps) >= k:
                raise FlowlitError(
                    f"CombinedGame: steps of {name} are {steps}; expected different ones from 0 to {k - 1}, "
                    f"since the roll-out has k={k} (rollout: {{class_path: flowlit.objectives.Rollout}})"
                )

    @property
    def reads_images(self) -> bool:
        return any(game.reads_images for game in self.games.values())

    def student_loss(self, generator: VelocityField, critic: nn.Module, pair: Pair) -> dict[str, Tensor]:
        """Return {"loss": (), and each part's loss, ()}."""
        rolled = self.roll(generator, pair)
        losses = {
            name: game.rolled_loss(acting(rolled, self.steps.get(name)), critic, pair)["loss"]
            for name, game in self.games.items()
        }
        anchors = {name: part for name, part in self.objectives.items() if name not in losses}
        return self.add(losses | {name: anchor(generator, pair)["loss"] for name, anchor in anchors.items()})

    def critic_loss(self, generator: VelocityField, critic: nn.Module, pair: Pair) -> dict[str, Tensor]:
        """Return {"loss": (), and each part's loss, ()}, of those parts that train the critic."""
        training = {name: game for name, game in self.games.items() if game.trains_critic}
        gates = {name: tuple(self.steps.get(name, ())) for name in training}
        with torch.no_grad():  # objectives of the same steps share samples
            rolled = {
                steps: self.roll(generator, pair, steps or None) for steps in dict.fromkeys(gates.values())
            }
        return self.add(
            {
                name: game.critic_rolled_loss(rolled[gates[name]], critic, pair)["loss"]
                for name, game in training.items()
            }
        )


def acting(rolled: Rolled, steps: list[int] | None) -> Rolled:
    """Return samples (B, C, H, W) of which those of other steps have no graph; None is all steps."""
    if steps is None:
        return rolled
    among = torch.isin(rolled.step, torch.tensor(steps, device=rolled.step.device))
    return rolled._replace(x=torch.where(expand(among, rolled.x), rolled.x, rolled.x.detach()))


def common_rollout(rollouts: list[Rollout | None]) -> Rollout | None:
    """Return the one roll-out among several, None if there is none.

    Raises:
        FlowlitError: if two differ, since samples are shared.
    """
    different = list(dict.fromkeys(rollout for rollout in rollouts if rollout is not None))
    if len(different) > 1:
        raise FlowlitError(
            f"CombinedGame: found the roll-outs {different}; expected one, since all objectives share samples"
        )
    return different[0] if different else None
