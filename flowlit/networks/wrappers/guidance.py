"""Classifier-free guidance as a velocity of a velocity."""

from __future__ import annotations

from torch import Tensor, nn

from ..._support.velocities import guided
from ...errors import FlowlitError
from ...ranges import Float
from ...types import Cond, classes_of, label_dropout_of, reads_of
from .base import VelocityWrapper


class ClassifierFreeGuidance(VelocityWrapper):
    """Guide a conditional velocity by itself without its label or text: v(∅) + scale · (v(cond) - v(∅)).

    scale 0 is unconditional, 1 conditional, above 1 guided: more alike to the class or text, and less varied.
    Two evaluations a call unless it is 0 or 1, counted as such in NFE. Only label and text are dropped: other
    conditions, such as a second time, hold for both evaluations. The network must have been trained to do
    without (``label_dropout``, or ``text_dropout`` of its data). Ho and Salimans 2022 (2207.12598), with
    their 1 + w = scale.
    """

    def __init__(self, network: nn.Module, scale: Float):
        if classes_of(network) == 0 and "text" not in (reads_of(network) or ()):
            raise FlowlitError(
                "ClassifierFreeGuidance: the network is unconditional (num_classes: 0); there is nothing to "
                "guide by"
            )
        if label_dropout_of(network) == 0:
            raise FlowlitError(
                "ClassifierFreeGuidance: the network never learned to do without its label; train it with "
                "label_dropout > 0"
            )
        super().__init__(network, scale=scale)
        self.scale = scale
        self.evaluations_of_network = 1 if scale in (0, 1) else 2

    def forward(self, x: Tensor, t: Tensor, cond: Cond = {}) -> Tensor:
        """Return the guided velocity (B, C, H, W) at x (B, C, H, W) and t (B,), under conditions (B, …)."""
        return guided(self.network, x, t, cond, scale=self.scale)
