"""The two losses with the settings of papers, by their names.

Where a paper trains for hundreds of millions of images, or a text leaves a setting open, docs/methods.md says
so. A ``rollout`` trains generators of several steps.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ... import rng
from ...errors import FlowlitError
from ...ranges import Float, PositiveFloat, Share
from ...types import Pair, VelocityField
from ..distances import SquaredError, VectorPseudoHuber
from ..rewards import Reward, RewardWeight
from ..rollout import Rollout
from ..times import KarrasSteps, LogitNormal, Uniform
from ..weights import EDMWeight, Powers
from .guidance import CFGAugmentation
from .holders import ReverseKL, ScoreIdentity
from .losses import mixture_loss, score_identity_loss
from .ratio import DensityRatio, Divergence


class DiffInstruct(ReverseKL):
    """Reverse KL by the plain difference of denoisers. Luo et al. 2023 (2305.18455); one critic update."""

    def __init__(self, guide: nn.Module, rollout: Rollout | None = None):
        super().__init__(
            guide,
            LogitNormal(1.2, 1.2),
            Powers(0, 1),
            normalise=False,
            critic_weight=EDMWeight(),
            rollout=rollout,
        )


class DMD(ReverseKL):
    """Reverse KL, normalised by the guide's error. Yin et al. 2023 (2311.18828).

    The paper adds a regression onto stored pairs, here ``Combined`` with ``Distillation``.
    """

    def __init__(self, guide: nn.Module, rollout: Rollout | None = None):
        super().__init__(guide, Uniform(0.02, 0.98), rollout=rollout)


class DecoupledDMD(ReverseKL):
    """DMD whose guide is guided at later times than those of distribution matching. 2511.22677.

    Guidance sharpens samples, and costs variety: without labels, or for the sake of variety, take ``DMD``.

    Args:
        guide: as in ``ScoreDistillation``, trained with labels and ``label_dropout``, and not guided.
        scale: of the guidance; 1 is ``DMD``.
        rollout: of a generator of several steps, 4 to 8 in the paper; None is one step.
    """

    def __init__(self, guide: nn.Module, scale: Float, rollout: Rollout | None = None):
        times = Uniform(0.02, 0.98)
        super().__init__(guide, times, guidance=CFGAugmentation(scale, times), rollout=rollout)


class DMD2(ReverseKL):
    """DMD with times of EDM's steps, without regression. Yin et al. 2024 (2405.14867); five critic updates.

    The paper adds a discriminator on the critic's features, here ``CombinedGame`` with ``Adversarial``.
    """

    def __init__(self, guide: nn.Module, rollout: Rollout | None = None):
        super().__init__(guide, KarrasSteps(0.02, 0.98), critic_times=KarrasSteps(), rollout=rollout)


class FDistill(ReverseKL):
    """DMD2 with another f-divergence. Xu et al. 2025 (2502.15681); four critic updates.

    ``CombinedGame`` with ``Adversarial``, whose discriminator has the density ratio.

    Args:
        guide: as in ``ScoreDistillation``.
        divergence: that is lessened.
        rollout: of a generator of several steps; None is one step.
    """

    def __init__(
        self,
        guide: nn.Module,
        divergence: Divergence = "jensen_shannon",
        rollout: Rollout | None = None,
    ):
        options: Any = {"critic_times": KarrasSteps(), "ratio": DensityRatio(divergence), "rollout": rollout}
        super().__init__(guide, KarrasSteps(0.02, 0.98), **options)


class ReDMD(ReverseKL):
    """DMD whose samples are weighed by a reward: "reward forcing" (2512.04678); five critic updates.

    It ends where DMD ends, if the generator can be exact; see ``RewardGradient`` for what raises a reward.

    Args:
        guide: as in ``ScoreDistillation``.
        reward: of samples.
        beta: of ``RewardWeight``.
        rollout: of a generator of several steps, 4 in the paper; None is one step.
    """

    def __init__(self, guide: nn.Module, reward: Reward, beta: Float = 2.0, rollout: Rollout | None = None):
        super().__init__(guide, Uniform(0.02, 0.98), reward=RewardWeight(reward, beta), rollout=rollout)


class SiD(ScoreIdentity):
    """Score identity distillation, normalised. Zhou et al. 2024 (2404.04057); one critic update.

    Args:
        guide: as in ``ScoreDistillation``.
        alpha: 1.2 in the paper; 1 or 1/2 for a student that cannot be exact, such as a slim one.
        rollout: of a generator of several steps (2505.12674); None is one step.
        critic_scale: as in ``ScoreDistillation``: 0 is Zero-CFG, below 0 Anti-CFG (2505.12674).
    """

    def __init__(
        self,
        guide: nn.Module,
        alpha: Float = 1.0,
        rollout: Rollout | None = None,
        critic_scale: Float = 1.0,
    ):
        super().__init__(
            guide,
            SquaredError(),
            2 * (1 - alpha),
            times=KarrasSteps(0.2, 1.0),
            weight=Powers(0, 1),
            floor=1e-5,
            critic_times=LogitNormal(1.2, 1.2),
            critic_weight=EDMWeight(),
            rollout=rollout,
            critic_scale=critic_scale,
        )


class SIM(ScoreIdentity):
    """Score implicit matching by a pseudo-Huber distance of whole velocities. Luo et al. 2024 (2410.16794).

    Args:
        guide: as in ``ScoreDistillation``.
        c: of ``VectorPseudoHuber``; the paper's is unknown to us.
        rollout: of a generator of several steps; None is one step.
    """

    def __init__(self, guide: nn.Module, c: PositiveFloat = 0.00054, rollout: Rollout | None = None):
        super().__init__(guide, VectorPseudoHuber(c), 0.0, normalise=False, rollout=rollout)


class UID(ScoreIdentity):
    """Flow generator matching, the gradient of the squared distance of velocities.

    Huang et al. 2024 (2410.19310); the same as universal inverse distillation (2509.22459).
    """

    def __init__(self, guide: nn.Module, rollout: Rollout | None = None):
        super().__init__(guide, SquaredError(), 1.0, times=Uniform(), normalise=False, rollout=rollout)


class RealUID(UID):
    """UID whose critic follows real images, too, the x1 of ``couplings.Independent``. 2509.22459.

    The best critic of samples like the images is still the guide.

    Args:
        guide: as in ``ScoreDistillation``.
        a: share of samples in the critic's loss; 1 with b = 1 is ``UID``.
        b: share of their velocities. b / a is 0.98 or 1.02 in the paper, 0.94 or 1.06 to refine a student;
            with b = a the generator's loss sees no image.
        rollout: of a generator of several steps; None is one step.
    """

    def __init__(self, guide: nn.Module, a: Share = 0.98, b: Share = 0.96, rollout: Rollout | None = None):
        super().__init__(guide, rollout)
        if a == 1 and b != 1:
            raise FlowlitError(f"RealUID: a is 1 and b {b}; expected a below 1, or both 1, which is UID")
        self.a = a
        self.b = b

    @property
    def reads_images(self) -> bool:
        return self.a < 1

    def loss(self, critic: VelocityField, pair: Pair, t: Tensor, since: Tensor) -> tuple[Tensor, Tensor]:
        """Loss (B,) of the pair (fresh noise, sample) at t (B,), and the residual u - v_φ (B, C, H, W)."""
        loss, residual = score_identity_loss(
            self.guide,
            critic,
            pair,
            t,
            distance=self.distance,
            scale=self.b / self.a,
            seen=self.direction.seen_at(t),
        )
        return self.a * loss, residual

    def critic_sample_loss(self, x: Tensor, critic: nn.Module, pair: Pair) -> dict[str, Tensor]:
        """Return {"loss": ()} on the samples x and real images pair.x1, (B, C, H, W)."""
        fake = Pair(rng.randn_like(x), x, pair.cond)
        t = self.flow_matching.times(len(x), x.device)
        real = pair if self.a == 1 else pair._replace(x0=rng.randn_like(x))
        loss = mixture_loss(critic, fake, real, t, a=self.a, b=self.b)
        self.flow_matching.report(t, loss)
        return {"loss": loss.mean()}
