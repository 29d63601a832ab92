"""Classifier-free guidance as a velocity of a velocity."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...errors import FlowlitError
from ...ranges import Float
from ...types import Cond, classes_of, label_dropout_of
from .base import VelocityWrapper


class ClassifierFreeGuidance(VelocityWrapper):
    """Guide a conditional velocity by itself without its label: v(∅) + scale · (v(label) - v(∅)).

    scale 0 is unconditional, 1 conditional, above 1 guided: more alike to the class, and less varied. Two
    evaluations a call, counted as such in NFE. Only the label is dropped: other conditions, such as a second
    time, hold for both evaluations. The network must have been trained to do without its label
    (``label_dropout``). Ho and Salimans 2022 (2207.12598), with their 1 + w = scale.
    """

    evaluations_of_network = 2

    def __init__(self, network: nn.Module, scale: Float):
        if classes_of(network) == 0:
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

    def forward(self, x: Tensor, t: Tensor, cond: Cond = {}) -> Tensor:
        """Return the guided velocity (B, C, H, W) at x (B, C, H, W) and t (B,), under conditions (B, …)."""
        if "label" not in cond:
            missing = "cond has no 'label'" if cond else "cond is empty"
            raise FlowlitError(
                f"ClassifierFreeGuidance: nothing to guide with, {missing}; give labels "
                "(data.noise.num_classes)"
            )
        free = self.network(x, t, {name: value for name, value in cond.items() if name != "label"})
        return torch.lerp(free, self.network(x, t, cond), self.scale)
