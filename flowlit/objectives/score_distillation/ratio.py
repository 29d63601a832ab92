"""Other f-divergences than the reverse KL: a weight of each sample by a discriminator's density ratio."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ...errors import FlowlitError
from ...ranges import Checked, PositiveFloat, PositiveInt

Divergence = Literal["reverse_kl", "forward_kl", "jensen_shannon", "squared_hellinger", "jeffreys"]


def divergence_weight(divergence: Divergence, r: Tensor) -> Tensor:
    """h(r) = f''(r) r², (B,), of a divergence E_q f(r) with the density ratio r = p / q, (B,).

    The gradient of the divergence is that of the reverse KL with each sample's part times h. The squared
    Hellinger distance is ∫ (√p - √q)², Jeffreys' the sum of both KL divergences. Xu et al. 2025 (2502.15681).
    """
    if divergence == "forward_kl":
        return r
    if divergence == "jensen_shannon":
        return r / (2 * (1 + r))
    if divergence == "squared_hellinger":
        return r.sqrt() / 2
    if divergence == "jeffreys":
        return 1 + r
    return torch.ones_like(r)


def binned_mean(values: Tensor, t: Tensor, bins: int) -> Tensor:
    """Return for each value (B,) the mean of those whose times t (B,), in [0, 1], share its bin, (B,)."""
    place = (t * bins).long().clamp(0, bins - 1)
    members = (place[:, None] == torch.arange(bins, device=t.device)).to(values.dtype)
    means = (values @ members) / members.sum(0).clamp_min(1)
    return means[place]


@dataclass
class DensityRatio(Checked):
    """Weights of an f-divergence, from the logits of the critic, which an ``Adversarial`` part trains.

    They are divided by their mean at like times, over the rows that a device works on at a time: with one
    row in a bin its weight is 1.

    Args:
        divergence: that is lessened.
        bins: of time, for the mean.
        low: smallest density ratio.
        high: largest density ratio.
        limit: largest absolute value of a logit.
    """

    divergence: Divergence = "jensen_shannon"
    bins: PositiveInt = 10
    low: PositiveFloat = 0.1
    high: PositiveFloat = 20.0
    limit: PositiveFloat = 10.0

    def __post_init__(self) -> None:
        """Refuse an empty interval."""
        if self.low > self.high:
            raise FlowlitError(f"DensityRatio: expected low <= high, found {self.low} and {self.high}")

    def __call__(self, logits: Tensor, t: Tensor) -> Tensor:
        """Return weights (B,) for log-odds of data (B,) at t (B,); their mean in each bin of t is 1."""
        r = logits.detach().clamp(-self.limit, self.limit).exp().clamp(self.low, self.high)
        h = divergence_weight(self.divergence, r)
        return h / binned_mean(h, t, self.bins)
