"""The clock of a network: what its times are multiplied by before their sines are taken."""

from __future__ import annotations

from copy import deepcopy
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._support.progress import Bar
from ..errors import FlowlitError
from .base import ConditionalNetwork
from .layers import TimeEmbedding
from .wrappers.diffusion import DiffusionVelocity
from .wrappers.preconditioning import EDM

STEPS = 6000
TIMES = 256


def reembedded(
    network: nn.Module, scale: float = 1.0, *, steps: int = STEPS, seed: int = 0
) -> tuple[nn.Module, float]:
    """Return a copy of a network with another clock, and the rms difference of its embeddings after a SiLU.

    A new time embedding of ``scale`` is fitted to what the old one gives the layers, at times in [0, 1]; all
    other weights stay. At 999 t, derivatives by t are mostly ripple: flow maps are trained with a scale of 1.

    Raises:
        FlowlitError: for a network whose times are not t, or that adds its label to their sines.
    """
    copy = deepcopy(network)
    inside = clocked(copy)
    old = inside.time
    width = 2 * len(old.frequencies)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        new = TimeEmbedding(width, old.layers[2].out_features, scale, old.endpoint)  # type: ignore[arg-type]
        difference = _fit(new, old, steps)
    inside.time = new.to(old.layers[0].weight)  # type: ignore[arg-type]
    inside.spec["init_args"]["time_scale"] = scale  # type: ignore[index]
    return copy, difference


def clocked(network: nn.Module) -> ConditionalNetwork:
    """Return the part of a network, perhaps inside wrappers, whose clock can be changed.

    Raises:
        FlowlitError: if there is none.
    """
    inside = next((part for part in network.modules() if isinstance(part, ConditionalNetwork)), None)
    if inside is None:
        raise FlowlitError(
            f"clock: {type(network).__name__} has no time embedding of flowlit's; expected UNet, ADM or DiT"
        )
    if any(isinstance(part, (EDM, DiffusionVelocity)) for part in network.modules()):
        raise FlowlitError(
            f"clock: {type(network).__name__} gives {type(inside).__name__} noise levels and not times; "
            "leave its clock as it is (EDM's is smooth already)"
        )
    if inside.early_label and inside.label is not None:
        raise FlowlitError(
            "clock: this network adds its label to the sines of its times (early_label: true), so that they "
            "cannot be changed alone"
        )
    return inside


def _fit(new: TimeEmbedding, old: TimeEmbedding, steps: int) -> float:
    """Fit an embedding to another at random times; return their rms difference on a fine grid."""
    optimizer = torch.optim.Adam(new.parameters(), 1e-3)
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    device = cast(Tensor, old.layers[0].weight).device
    new.to(device)
    with torch.enable_grad():
        for _ in Bar(range(steps), desc="clock", leave=False):
            loss = _difference(new, old, torch.rand(TIMES).to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            falling.step()
    with torch.no_grad():
        return float(_difference(new, old, torch.linspace(0, 1, 1001, device=device)).sqrt())


def _difference(new: TimeEmbedding, old: TimeEmbedding, t: Tensor) -> Tensor:
    with torch.no_grad():
        target = F.silu(old(t).float())
    return (F.silu(new(t)) - target).square().mean()
