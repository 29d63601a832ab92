"""The two losses with the settings of papers, by their names.

Where a paper trains for hundreds of millions of images, or a text leaves a setting open, docs/methods.md says
so.
"""

from __future__ import annotations

from torch import nn

from ...ranges import Float, PositiveFloat
from ..distances import SquaredError, VectorPseudoHuber
from ..times import KarrasSteps, LogitNormal, Uniform
from ..weights import EDMWeight, Powers
from .holders import ReverseKL, ScoreIdentity


class DiffInstruct(ReverseKL):
    """Reverse KL by the plain difference of denoisers. Luo et al. 2023 (2305.18455); one critic update."""

    def __init__(self, guide: nn.Module):
        times = LogitNormal(1.2, 1.2)
        super().__init__(guide, times, Powers(0, 1), normalise=False, critic_weight=EDMWeight())


class DMD(ReverseKL):
    """Reverse KL, normalised by the guide's error. Yin et al. 2023 (2311.18828).

    The paper adds a regression onto stored pairs, here ``Combined`` with ``Distillation``.
    """

    def __init__(self, guide: nn.Module):
        super().__init__(guide, Uniform(0.02, 0.98))


class DMD2(ReverseKL):
    """DMD with times of EDM's steps, without regression. Yin et al. 2024 (2405.14867); five critic updates.

    The paper adds a discriminator on the critic's features.
    """

    def __init__(self, guide: nn.Module):
        super().__init__(guide, KarrasSteps(0.02, 0.98), critic_times=KarrasSteps())


class SiD(ScoreIdentity):
    """Score identity distillation, normalised. Zhou et al. 2024 (2404.04057); one critic update.

    Args:
        guide: as in ``ScoreDistillation``.
        alpha: 1.2 in the paper; 1 or 1/2 for a student that cannot be exact, such as a slim one.
    """

    def __init__(self, guide: nn.Module, alpha: Float = 1.0):
        super().__init__(
            guide,
            SquaredError(),
            2 * (1 - alpha),
            times=KarrasSteps(0.2, 1.0),
            weight=Powers(0, 1),
            floor=1e-5,
            critic_times=LogitNormal(1.2, 1.2),
            critic_weight=EDMWeight(),
        )


class SIM(ScoreIdentity):
    """Score implicit matching by a pseudo-Huber distance of whole velocities. Luo et al. 2024 (2410.16794).

    Args:
        guide: as in ``ScoreDistillation``.
        c: of ``VectorPseudoHuber``; the paper's is unknown to us.
    """

    def __init__(self, guide: nn.Module, c: PositiveFloat = 0.00054):
        super().__init__(guide, VectorPseudoHuber(c), 0.0, normalise=False)


class UID(ScoreIdentity):
    """Flow generator matching, the gradient of the squared distance of velocities.

    Huang et al. 2024 (2410.19310); the same as universal inverse distillation (2509.22459).
    """

    def __init__(self, guide: nn.Module):
        super().__init__(guide, SquaredError(), 1.0, times=Uniform(), normalise=False)
