"""Losses of a generator whose samples are to have the distribution of a guide's flow.

Guide and critic are two velocities on the straight path: the guide's, v_φ, of the data, the critic's, v_ψ,
of the generator's samples. x is such a sample, ε noise that is independent of it, x_t = (1 - t) ε + t x and
u = x - ε. Their difference is y = v_ψ - v_φ at (x_t, t), and t / (1 - t) · y that of the scores.

Here a pair is (ε, x). Gradients reach the generator through x alone: it must have its graph.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..._support.velocities import evaluate
from ...paths.straight import interpolate
from ...types import Distance, Pair, VelocityField
from ..distances import per_sample

Seen = Callable[[Tensor], None]
"""Called with y, (B, C, H, W)."""


def difference(
    guide: VelocityField, critic: VelocityField, pair: Pair, t: Tensor, guidance: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """sg y and the residual sg(u - v_φ), (B, C, H, W), at t (B,), where guidance is added to v_φ."""
    with torch.no_grad():
        x_t = interpolate(pair.x0, pair.x1, t)
        v_guide = evaluate(guide, x_t, t, pair.cond)
        if guidance is not None:
            v_guide = v_guide + guidance
        return evaluate(critic, x_t, t, pair.cond) - v_guide, pair.x1 - pair.x0 - v_guide


def reverse_kl_loss(
    guide: VelocityField,
    critic: VelocityField,
    pair: Pair,
    t: Tensor,
    *,
    guidance: Tensor | None = None,
    seen: Seen | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean over entries of ⟨ sg y, x ⟩, (B,), at t (B,); and the residual sg(u - v_φ), (B, C, H, W).

    Its gradient, times t² / (1 - t), is that of KL(q_t ‖ p_t), where q_t is the distribution of noised
    samples and p_t that of noised data; the mean divides it by the number of entries. Neither network is
    differentiated. ``guidance`` is added to the guide's velocity (``cfg_augmentation``). Luo et al. 2023
    (2305.18455), Yin et al. 2023 (2311.18828).
    """
    y, residual = difference(guide, critic, pair, t, guidance)
    if seen is not None:
        seen(y)
    return per_sample(y * pair.x1), residual


def score_identity_loss(
    guide: VelocityField,
    critic: VelocityField,
    pair: Pair,
    t: Tensor,
    *,
    distance: Distance,
    correction: float = 1.0,
    scale: float = 1.0,
    seen: Seen | None = None,
) -> tuple[Tensor, Tensor]:
    """-⟨ ∇ρ(y), v_ψ - scale · u ⟩ + correction · ρ(y), (B,), with ρ(y) = d(y, 0), at t (B,); and sg(u - v_φ).

    The gradient flows through x_t into both networks, through ∇ρ(y), and through u; weights of guide and
    critic must be fixed by the caller. With correction 1 it is that of E ρ(y), with 0 the same while the
    distribution of x_t is held fixed (SIM); with the squared error, correction is 2 (1 - α) in SiD's α.
    Its value does not measure progress: with a perfect critic it is (correction - 1) times a distance.
    Zhou et al. 2024 (2404.04057), Luo et al. 2024 (2410.16794), Huang et al. 2024 (2410.19310).
    """
    x_t = interpolate(pair.x0, pair.x1, t)
    u = pair.x1 - pair.x0
    v_critic = evaluate(critic, x_t, t, pair.cond)
    v_guide = evaluate(guide, x_t, t, pair.cond)
    y = v_critic - v_guide
    if seen is not None:
        seen(y.detach())
    size = distance(y, torch.zeros_like(y))
    (slope,) = torch.autograd.grad(size.sum(), y, create_graph=True)
    loss = correction * size - (slope * (v_critic - scale * u)).flatten(1).sum(1)
    return loss, (u - v_guide).detach()


def mixture_loss(critic: VelocityField, fake: Pair, real: Pair, t: Tensor, *, a: float, b: float) -> Tensor:
    """a ‖v_ψ - b / a · u‖² of samples + (1 - a) ‖v_ψ - (1 - b) / (1 - a) · u‖² of real images, (B,).

    Both are at t (B,), and squares are means over entries. With q and p the densities of noised samples and
    images, its best critic is (b q v_q + (1 - b) p v_p) / (a q + (1 - a) p) at x_t: the guide if both are the
    same. With a = b = 1 it has samples alone. RealUID (2509.22459).
    """

    def error(pair: Pair, scale: float) -> Tensor:
        v = evaluate(critic, interpolate(pair.x0, pair.x1, t), t, pair.cond)
        return per_sample((v - scale * (pair.x1 - pair.x0)) ** 2)

    loss = a * error(fake, b / a)
    return loss if a == 1 else loss + (1 - a) * error(real, (1 - b) / (1 - a))
