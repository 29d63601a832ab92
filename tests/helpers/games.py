"""Two-player objectives and critics, small enough to train in a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tiny
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, softplus

from flowlit import rng
from flowlit.objectives import TwoPlayerObjective
from flowlit.paths.straight import interpolate
from flowlit.types import Pair


class Discriminator(nn.Module):
    """A head on features of digits: averages of 2×2 pixels, one hidden layer, one logit."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.head = nn.Sequential(nn.Linear(16, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(avg_pool2d(x, 2).flatten(1)).squeeze(1)


class Game(TwoPlayerObjective):
    """The non-saturating game of a generator and a discriminator, whose inputs are a little noisy."""

    strength = 0.1

    def noised(self, x: Tensor) -> Tensor:
        return x + self.strength * rng.randn_like(x)

    def student_loss(self, generator: Any, critic: nn.Module, pair: Pair) -> dict[str, Tensor]:
        fake = self.sample(generator, pair)
        return {"loss": softplus(-critic(self.noised(fake))).mean(), "size": fake.detach().square().mean()}

    def critic_loss(self, generator: Any, critic: nn.Module, pair: Pair) -> dict[str, Tensor]:
        fake = self.sample(generator, pair).detach()
        real = softplus(-critic(self.noised(pair.x1))).mean()
        return {"loss": softplus(critic(self.noised(fake))).mean() + real, "real": real}


class Matching(TwoPlayerObjective):
    """Distribution matching: samples move along the difference of the critic's and a guide's velocities."""

    def __init__(self, guide: Any):
        super().__init__()
        self.guide = guide

    def student_loss(self, generator: Any, critic: Any, pair: Pair) -> dict[str, Tensor]:
        x = self.sample(generator, pair)
        t = rng.rand(len(x), x.device)
        with torch.no_grad():
            x_t = interpolate(rng.randn_like(x), x, t)
            direction = critic(x_t, t, pair.cond) - self.guide(x_t, t, pair.cond)
        return {"loss": (direction * x).mean()}


def duel(
    root: Path | str, updates: int = 2, critic: dict[str, Any] | None = None, **arguments: Any
) -> dict[str, Any]:
    """The configuration of a fit of ``Game``: as ``tiny.fit``, with a critic."""
    content = tiny.fit(root, "CriticModule", **arguments)
    adam = {"class_path": "torch.optim.Adam", "init_args": {"lr": 2e-3, "betas": [0.5, 0.9]}}
    settings = {"network": {"class_path": "games.Discriminator"}, "optimizer": adam, "updates": updates}
    second = {"class_path": "flowlit.modules.Critic", "init_args": {**settings, **(critic or {})}}
    content["model"]["init_args"] |= {"objective": {"class_path": "games.Game"}, "critic": second}
    return content
