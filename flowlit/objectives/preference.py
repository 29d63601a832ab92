"""Losses of preferences: of two images one is better, and a network is to be likelier to make it.

Miao et al. 2024 (2410.03190): the steps of a sampler of few steps have a density, which is compared with that
of a frozen reference, the network before. Averages over entries are part of β: it depends on their number.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .._support.velocities import evaluate
from ..paths.straight import expand, interpolate
from ..types import Pair, VelocityField
from .distances import per_sample


def preference_loss(better: Tensor, worse: Tensor, *, beta: float, clamp: float | None = None) -> Tensor:
    """-log σ( β (ℓ_better - ℓ_worse) ), (B,), of log-ratios ℓ (B,) of network and reference.

    Ratios outside of 1 ± ``clamp`` have no gradient. At the reference the gradient is ∓β / 2.
    """
    if clamp is not None:
        better, worse = (ratio.clamp(math.log1p(-clamp), math.log1p(clamp)) for ratio in (better, worse))
    return F.softplus(-beta * (better - worse))


def step_log_ratio(after: Tensor, endpoint: Tensor, reference: Tensor, t: Tensor) -> Tensor:
    """Return log p / p_ref, (B,), of a step to ``after`` (B, C, H, W) at t (B,), averaged over entries.

    The step is that of ``ReNoise``: it has noise (1 - t) around t times a predicted end point, which is the
    network's ``endpoint`` and the reference's, both (B, C, H, W). At t = 1 there is no density.
    """
    scale = (t / (1 - t)) ** 2
    scaled = after / expand(t, after)
    return scale / 2 * (per_sample((scaled - reference) ** 2) - per_sample((scaled - endpoint) ** 2))


def offline_preference_loss(
    velocity: VelocityField,
    reference: VelocityField,
    pair: Pair,
    worse: Tensor,
    t: Tensor,
    *,
    beta: float,
) -> Tensor:
    """-log σ( β [(e_ref - e)(x1) - (e_ref - e)(worse)] ), (B,), at t (B,); e = mean (v - (x - x0))².

    ``pair.x1`` is the better image and ``worse`` (B, C, H, W) the other, with the same noise ``pair.x0``. At
    t = 0, where one-step generators are evaluated, what β multiplies is 2 ⟨G - G_ref, x1 - worse⟩ / d, linear
    and without bounds: it needs an anchor there.
    """
    gains = []
    for image in (pair.x1, worse):
        x_t = interpolate(pair.x0, image, t)
        target = image - pair.x0
        with torch.no_grad():
            before = per_sample((evaluate(reference, x_t, t, pair.cond) - target) ** 2)
        gains.append(before - per_sample((evaluate(velocity, x_t, t, pair.cond) - target) ** 2))
    return preference_loss(*gains, beta=beta)
