"""A network of which only small changes of its layers are trained: LoRA, by peft."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from torch import Tensor, nn

from ..._support.extras import needed
from ...errors import FlowlitError
from ...ranges import PositiveFloat, PositiveInt
from ...types import Cond
from .base import VelocityWrapper

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
"""Layers of attention in networks of diffusers."""


class LowRank(VelocityWrapper):
    """A network whose linear and convolutional layers get a trained change of low rank: W + α/r · B A.

    All else is frozen. B begins at 0, so that the network is the one inside at first. Checkpoints hold it
    whole; ``flowlit export`` adds the changes to the layers. Hu et al. 2021 (2106.09685). ``flowlit[text]``.

    Args:
        network: the network inside, of which a copy is changed.
        rank: r.
        alpha: α; None is r.
        layers: ends of the names of the layers, as in ``network.named_modules()``; the default is attention
            in networks of diffusers.

    Raises:
        FlowlitError: if the network has no such layers, or they are of another kind.
    """

    def __init__(
        self,
        network: nn.Module,
        rank: PositiveInt = 16,
        alpha: PositiveFloat | None = None,
        layers: Sequence[str] = ATTENTION,
    ):
        network = deepcopy(network)
        super().__init__(network, rank=rank, alpha=alpha, layers=list(layers))
        peft = needed("peft")
        config = peft.LoraConfig(r=rank, lora_alpha=alpha or rank, target_modules=list(layers))
        try:
            peft.inject_adapter_in_model(config, network)
        except ValueError as error:
            why = str(error).partition("\n")[0][:200]
            raise FlowlitError(
                f"LowRank: layers {[*layers]} of {type(network).__name__}: {why}; give the names of linear "
                "or convolutional layers"
            ) from error
        changes = [name for name, _ in network.named_parameters() if "lora_" in name]
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in changes)

    def forward(self, x: Tensor, t: Tensor, cond: Cond = {}) -> Tensor:
        """Return the velocity (B, C, H, W) at x (B, C, H, W) and t (B,), under conditions (B, …)."""
        return self.network(x, t, cond)

    def merged(self) -> nn.Module:
        """Return a copy of the network inside with the changes in its layers, as if all had been trained."""
        network: Any = deepcopy(self.network)
        for name, layer in list(network.named_modules()):
            if not hasattr(layer, "lora_A"):
                continue
            layer.merge()
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, layer.base_layer)
        for name, value in vars(self).items():  # what training and files say of it
            if name in ("text_encoder", "trained_on", "class_names"):
                setattr(network, name, value)
        return network.requires_grad_(True)
