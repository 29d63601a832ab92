"""Classifier-free guidance of a guide, apart from the matching of distributions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ... import rng
from ..._support.velocities import guided
from ...errors import FlowlitError
from ...paths.straight import interpolate
from ...ranges import Checked, Float
from ...types import (
    Pair,
    TimeDistribution,
    VelocityField,
    classes_of,
    evaluations_of,
    label_dropout_of,
    reads_of,
)


def cfg_augmentation(guide: VelocityField, pair: Pair, t: Tensor, *, scale: float) -> Tensor:
    """(scale - 1) · sg(v_φ(label) - v_φ(∅)), (B, C, H, W), of the pair (noise, sample) at t (B,).

    A guide under classifier-free guidance has v_φ(label) + this. It moves samples along the guide's label
    alone, and lessens their variety: distribution matching without it has a scale of 1. 2511.22677.
    """
    with torch.no_grad():
        x_t = interpolate(pair.x0, pair.x1, t)
        with_label, without = (guided(guide, x_t, t, pair.cond, scale=share) for share in (1, 0))
        return (scale - 1) * (with_label - without)


class CFGAugmentation(Checked):
    """Guidance of the guide at other times than those of distribution matching, as Decoupled DMD has it.

    Args:
        scale: of the guidance, as in ``ClassifierFreeGuidance``; 1 is none.
        times: as shares of the way from the time at which the sample's step starts to 1, so that they are
            later than it; with noise of their own. None is the times and noise of distribution matching: DMD
            with a guided guide.
    """

    def __init__(self, scale: Float, times: TimeDistribution | None = None):
        self.scale = scale
        self.times = times

    def __call__(self, guide: VelocityField, pair: Pair, t: Tensor, since: Tensor) -> Tensor | None:
        """Return what is added to the guide's velocity, (B, C, H, W), for a pair (noise, sample).

        Distribution matching is at t (B,), the sample's step started at ``since`` (B,). None for scale 1.
        """
        if self.scale == 1:
            return None
        if self.times is not None:
            pair = pair._replace(x0=rng.randn_like(pair.x0))
            t = since + (1 - since) * self.times(len(since), since.device)
        return cfg_augmentation(guide, pair, t, scale=self.scale)


def check_guidable(guide: Any) -> None:
    """Refuse a guide without labels and text, one that needs them, and one that is guided already.

    Raises:
        FlowlitError: naming the reason.
    """
    name = type(guide).__name__
    unconditional = classes_of(guide) == 0 and "text" not in (reads_of(guide) or ())
    if unconditional or label_dropout_of(guide) == 0:
        reason = "is unconditional" if unconditional else "never learned to do without its label"
        raise FlowlitError(
            f"CFGAugmentation: the guide, {name}, {reason}; expected one trained with num_classes and "
            "label_dropout > 0, or no guidance"
        )
    if evaluations_of(guide) > 1:
        raise FlowlitError(
            f"CFGAugmentation: the guide, {name}, takes {evaluations_of(guide)} evaluations: it is guided "
            "already; expected the network inside it"
        )
