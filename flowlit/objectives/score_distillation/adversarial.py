"""The game of a generator against a discriminator of noised images, which stands on the critic's features.

A critic here has ``logits(x_t, t, cond)``, (B, 1, h, w) or (B,), high for data: log-odds, whose best value is
log p_t / q_t, with p_t the distribution of noised data and q_t that of noised samples. A pair is
(ε, image), and x_t = (1 - t) ε + t · image. Samples and images must be noised at times of one law.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ... import rng
from ...errors import FlowlitError
from ...paths.straight import interpolate
from ...ranges import NonNegativeFloat, NonNegativeInt, PositiveFloat
from ...types import Pair, TimeDistribution
from ..base import SampleObjective
from ..times import Uniform


def mean_of_map(x: Tensor) -> Tensor:
    """Average numbers (B, 1, h, w), or (B,), of each sample, (B,)."""
    return x.reshape(len(x), -1).mean(1)


def logits_of(critic: Any, pair: Pair, t: Tensor) -> Tensor:
    """Return a critic's logits (B, 1, h, w), or (B,), of a pair (ε, image) that is mixed at t (B,)."""
    return critic.logits(interpolate(pair.x0, pair.x1, t), t, pair.cond)


def adversarial_loss(critic: Any, pair: Pair, t: Tensor) -> Tensor:
    """softplus(-D(x_t)), (B,), of the generator's samples at t (B,): the non-saturating game.

    Goodfellow et al. 2014 (1406.2661). Of an image's logits the losses are averaged.
    """
    return mean_of_map(F.softplus(-logits_of(critic, pair, t)))


def discriminator_loss(critic: Any, fake: Pair, real: Pair, t: Tensor) -> Tensor:
    """softplus(D(x_t)) of samples + softplus(-D(x_t)) of real images, (B,), both at t (B,)."""
    of_fake = mean_of_map(F.softplus(logits_of(critic, fake, t)))
    return of_fake + mean_of_map(F.softplus(-logits_of(critic, real, t)))


def approximate_r1(critic: Any, pair: Pair, t: Tensor, noise: Tensor, *, sigma: float) -> Tensor:
    """(D(x_t) - D(x_t + σ · noise))² / σ², (B,): in the mean the squared gradient of D at x_t, for small σ.

    Mescheder et al. 2018 (1801.04406) have the gradient itself, whose training differentiates twice. Noise
    is (B, C, H, W), t (B,).
    """
    x_t = interpolate(pair.x0, pair.x1, t)
    with torch.autocast(x_t.device.type, enabled=False):  # small differences
        change = critic.logits(x_t + sigma * noise, t, pair.cond) - critic.logits(x_t, t, pair.cond)
    return mean_of_map(change**2) / sigma**2


class Adversarial(SampleObjective):
    """Let samples pass for real images, the x1 of ``couplings.Independent``, before a discriminator.

    The critic's network is a ``flowlit.networks.Discriminator``, and the critic has no objective of its own.
    In a ``CombinedGame`` both are trained with score distillation: DMD2's weight there is 3e-3, and 10 / 3
    the critic's.

    Args:
        critic_weight: of the critic's loss, relative to that of the generator's.
        start: update of the generator from which it counts; the discriminator learns from the first.
        times: at which samples and images are noised; None is uniform on [0, 1).
        r1: weight of the squared gradient of the logits at real images, approximately; 0 leaves it out. 1 is
            FastGen's 100 with ``sigma`` 0.1.
        sigma: of the noise by which that gradient is measured.
    """

    def __init__(
        self,
        critic_weight: PositiveFloat = 1.0,
        start: NonNegativeInt = 0,
        times: TimeDistribution | None = None,
        r1: NonNegativeFloat = 0.0,
        sigma: PositiveFloat = 0.1,
    ):
        super().__init__()
        self.critic_weight = critic_weight
        self.start = start
        self.times = times or Uniform()
        self.r1 = r1
        self.sigma = sigma
        self._module: Callable[[], Any] = lambda: None

    @property
    def reads_images(self) -> bool:
        return True

    @property
    def begins(self) -> int:
        """Update of the generator from which it reports losses over time."""
        return self.start

    def on_attach(self, module: nn.Module) -> None:
        """Take the steps of a module with a critic.

        Raises:
            FlowlitError: if the critic has no logits, or they would not be trained.
        """
        check_judges(module, "Adversarial")
        self._module = weakref.ref(module)

    def sample_loss(self, x: Tensor, critic: nn.Module, pair: Pair) -> dict[str, Tensor]:
        """Return {"loss": ()} of the generator's samples x (B, C, H, W)."""
        if getattr(self._module(), "global_step", self.start) < self.start:
            return {"loss": 0 * x.mean()}
        t = self.times(len(x), x.device)
        loss = adversarial_loss(critic, Pair(rng.randn_like(x), x, pair.cond), t)
        self.report(t, loss)
        return {"loss": loss.mean()}

    def critic_sample_loss(self, x: Tensor, critic: nn.Module, pair: Pair) -> dict[str, Tensor]:
        """Return {"loss": ()} of the discriminator, for samples x and real images pair.x1, (B, C, H, W)."""
        t = self.times(len(x), x.device)
        real = Pair(rng.randn_like(x), pair.x1, pair.cond)
        loss = discriminator_loss(critic, Pair(rng.randn_like(x), x, pair.cond), real, t)
        if self.r1:
            loss = loss + self.r1 * approximate_r1(critic, real, t, rng.randn_like(x), sigma=self.sigma)
        return {"loss": self.critic_weight * loss.mean()}


def check_judges(module: nn.Module, name: str) -> None:
    """Refuse a critic whose logits an objective could not use.

    Raises:
        FlowlitError: if it has none, or an objective of its own, which would leave them untrained.
    """
    critic: Any = getattr(module, "critic", None)
    if critic is None:  # not yet there, or refused elsewhere
        return
    if not callable(getattr(critic.network, "logits", None)):
        raise FlowlitError(
            f"{name}: the critic's network, {type(critic.network).__name__}, has no logits; put it into "
            "{class_path: flowlit.networks.Discriminator, init_args: {network: …}} at model.critic.network"
        )
    check_no_own_objective(critic, name, "leaves its logits untrained")


def check_no_own_objective(critic: Any, name: str, fault: str) -> None:
    """Refuse a critic with an objective of its own, which would take the place of its loss in the game.

    Raises:
        FlowlitError: saying what that objective does not do.
    """
    if critic.objective is not None:
        raise FlowlitError(
            f"{name}: the critic has an objective of its own, {type(critic.objective).__name__}, which "
            f"{fault}; leave model.critic.objective out"
        )
