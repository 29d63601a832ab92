"""Trajectory distribution matching: each step's end has the distribution that the guide's flow has there.

A step from t to s (``since``, ``until``) predicts a sample x̂ and the noise ε̂ = (x_t - t x̂) / (1 - t), and
ends at x_s = (1 - s) ε̂ + s x̂. At an earlier time τ of its segment it is x_τ = (τ / s) x_s + β η with fresh
noise η and β² = (1 - τ)² - (τ / s)² (1 - s)²: if x_s has the distribution of noised data at s, then x_τ has
that at τ. A critic of all segments has in each the distributions of one step, since no τ is in two of them.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ... import rng
from ..._support.velocities import evaluate
from ...errors import FlowlitError
from ...paths.straight import expand, interpolate
from ...types import Cond, Distance, Pair, TimeDistribution, VelocityField
from ..distances import SquaredError
from ..rollout import Rolled, Rollout
from ..times import Uniform
from .adversarial import check_no_own_objective
from .holders import ReverseKL
from .losses import difference


def spread(t: Tensor, until: Tensor) -> Tensor:
    """Standard deviation β of η at t (B,), (B,), 0 at the end of the segment; without cancellation."""
    share = t / until
    return ((1 - share) * (1 - 2 * t + share)).sqrt()


def predicted_noise(rolled: Rolled) -> Tensor:
    """ε̂, (B, C, H, W), the noise that a step's velocity leads back to, without a graph."""
    since = expand(rolled.since, rolled.x)
    return ((rolled.start - since * rolled.x) / (1 - since)).detach()


def segment_pair(rolled: Rolled, t: Tensor, noise: Tensor, cond: Cond = {}) -> Pair:
    """Pair (noise, x̂) whose mixture at t (B,), within the segment of each row, is x_τ.

    Its noise is that of ε̂ and η (B, C, H, W) together: N(0, I) where ε̂ is, but not independent of x̂.
    Luo et al. 2025 (2503.06674).
    """
    share = expand(t / rolled.until * (1 - rolled.until), noise)
    mixed = share * predicted_noise(rolled) + expand(spread(t, rolled.until), noise) * noise
    return Pair(mixed / (1 - expand(t, noise)), rolled.x, cond)


def segment_loss(
    critic: VelocityField,
    rolled: Rolled,
    t: Tensor,
    noise: Tensor,
    cond: Cond = {},
    *,
    distance: Distance,
) -> Tensor:
    """(β / c)² d( v_ψ(x_τ), x_s / s - c / β · η ), (B,), at t (B,), with c = 1 - τ + τ (1 - s)² / s².

    The target is the velocity of the kernel's score -η / β, (x_τ - (1 - τ) η / β) / τ, so that the mean of
    targets is the velocity of x_τ. That of x̂ itself is not, since it depends on ε̂. The weight makes up for
    the target's variance, which grows towards the end of the segment. In the last segment this is flow
    matching.
    """
    s = rolled.until
    scale = (1 - t + t * ((1 - s) / s) ** 2) / spread(t, s)
    x_s = interpolate(predicted_noise(rolled), rolled.x.detach(), s)
    x_t = expand(t / s, noise) * x_s + expand(spread(t, s), noise) * noise
    target = x_s / expand(s, noise) - expand(scale, noise) * noise
    return distance(evaluate(critic, x_t, t, cond), target) / scale**2


class TDM(ReverseKL):
    """Reverse KL along the trajectory of a generator of several Euler steps. Luo et al. 2025 (2503.06674).

    Each step is compared within its own segment, and the critic follows there, without the bias of a
    regression onto samples. One critic update. Put a guide of labels into ``ClassifierFreeGuidance``.

    Args:
        guide: as in ``ScoreDistillation``.
        rollout: the steps, with ``renoise: ode``; None is 4 of one length. One step is ``DMD``.
        times: as shares of the way through the segment; None is uniform on [0.02, 0.98).
        distance: between the sample and where it is drawn to; None is half the squared error. With
            ``VectorPseudoHuber`` all samples are drawn about equally far.
    """

    def __init__(
        self,
        guide: nn.Module,
        rollout: Rollout | None = None,
        times: TimeDistribution | None = None,
        distance: Distance | None = None,
    ):
        rollout = rollout or Rollout(4, "ode")
        if rollout.k > 1 and rollout.renoise != "ode":
            raise FlowlitError(
                f"TDM: the roll-out is {rollout}; expected renoise: ode, since it is the trajectory that is "
                "matched (or DMD with this roll-out)"
            )
        super().__init__(guide, times or Uniform(0.02, 0.98), rollout=rollout)
        self.distance = distance

    def on_attach(self, module: nn.Module) -> None:
        """Refuse a critic that would follow re-noised samples instead of the trajectory.

        Raises:
            FlowlitError: if the critic has an objective of its own.
        """
        super().on_attach(module)
        critic: Any = getattr(module, "critic", None)
        if critic is not None:
            check_no_own_objective(critic, "TDM", "does not follow the trajectory")

    def within(self, rolled: Rolled, share: TimeDistribution) -> Tensor:
        """Draw times (B,) within the segments of samples (B, C, H, W)."""
        place = share(len(rolled.x), rolled.x.device)
        return rolled.since + place * (rolled.until - rolled.since)

    def noised(self, rolled: Rolled, cond: Cond) -> tuple[Pair, Tensor]:
        """Return the pair (noise, sample) of a sample (B, C, H, W), and the time t (B,) of their mixture."""
        t = self.within(rolled, self.times)
        return segment_pair(rolled, t, rng.randn_like(rolled.x), cond), t

    def loss(self, critic: VelocityField, pair: Pair, t: Tensor, since: Tensor) -> tuple[Tensor, Tensor]:
        """Loss (B,) of the pair (noise, sample) at t (B,), and the residual u - v_φ (B, C, H, W)."""
        if self.distance is None:
            return super().loss(critic, pair, t, since)
        y, residual = difference(self.guide, self.compared(critic), pair, t)
        self.direction.seen_at(t)(y)
        weight = self.weights(t, residual)
        aim = (pair.x1 - expand(weight, y) * y).detach()
        return self.distance(pair.x1, aim) / weight, residual

    def critic_rolled_loss(self, rolled: Rolled, critic: nn.Module, pair: Pair) -> dict[str, Tensor]:
        """Return {"loss": ()} of the critic on samples (B, C, H, W), each in its own segment."""
        noise = rng.randn_like(rolled.x)  # first, as in flow matching
        t = self.within(rolled, self.flow_matching.times)
        loss = segment_loss(critic, rolled, t, noise, pair.cond, distance=SquaredError())
        self.flow_matching.report(t, loss)
        return {"loss": loss.mean()}
