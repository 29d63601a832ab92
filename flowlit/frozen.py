"""Hold a network that must never be trained, saved or averaged."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .types import evaluations_of, reads_of


class Frozen:
    """Hide a teacher, guide or perceptual network from everything that walks over modules.

    It is not an ``nn.Module``, so the network is absent from ``state_dict``, optimizers, averages and DDP
    buckets; it stays in eval mode for ever, its parameters take no gradient (gradients still flow *through*
    it), it follows its input to the input's device, and a deep copy shares it.
    """

    def __init__(self, network: nn.Module):
        self.network = network.requires_grad_(False).eval()
        self.evaluations = evaluations_of(network)
        self._device: torch.device | None = None

    @property
    def reads(self) -> frozenset[str] | None:
        """Names of the conditions that the network reads."""
        return reads_of(self.network)

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self._device != x.device:
            self.network.to(x.device)
            self._device = x.device
        return self.network(x, *args, **kwargs)

    def __deepcopy__(self, memo: dict) -> Frozen:
        return self

    def __repr__(self) -> str:
        return f"Frozen({type(self.network).__name__})"
