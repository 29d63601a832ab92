"""The class of all rewards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from ...errors import FlowlitError
from ...ranges import Checked, OneLine
from ...types import Cond, classes_of


class Reward(OneLine, Checked, nn.Module, ABC):
    """Number of an image, larger for a better one. Images are in about [-1, 1], and none is clamped."""

    differentiable: ClassVar[bool] = True
    """Whether images get a gradient."""
    needs_label: ClassVar[bool] = False
    """Whether it looks at ``cond["label"]``."""

    @abstractmethod
    def forward(self, x: Tensor, cond: Cond = {}) -> Tensor:
        """Return the rewards (B,) of images x (B, C, H, W) under conditions (B, …)."""

    def check(self, network: nn.Module) -> None:
        """Refuse a generator without the labels that it needs; called before the first step.

        Raises:
            FlowlitError: saying what to give.
        """
        if self.needs_label and classes_of(network) == 0:
            raise FlowlitError(
                f"{type(self).__name__} needs labels, but {type(network).__name__} is unconditional; give it "
                "num_classes, and the data labels: true"
            )
