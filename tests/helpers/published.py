"""Makers of files like the published ones, with random weights that hide no mistake."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from reference.slimflow_network import NCSNpp
from safetensors.torch import save_file
from torch import nn


@torch.no_grad()
def randomise(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give each parameter, also those that training starts at zero, a random value that keeps activations of
    order 1.
    """
    draw = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        noise = torch.randn(parameter.shape, generator=draw, dtype=torch.float32)
        if name.endswith(".W"):
            noise = noise / math.sqrt(parameter.shape[0])
        elif parameter.dim() >= 2:
            noise = noise / math.sqrt(parameter[0].numel())
        elif name.endswith("weight"):
            noise = 1 + 0.2 * noise
        else:
            noise = 0.2 * noise
        parameter.copy_(noise)
    return network.eval()


def labels_of(network: nn.Module, labels: torch.Tensor) -> torch.Tensor:
    """The one-hot float rows that EDM's networks take."""
    return nn.functional.one_hot(labels, network.classes).float()


def slimflow_checkpoint(
    path,
    network: nn.Module,
    *,
    ema: bool = True,
    parallel: bool | None = None,
    zipped: bool = True,
    half: bool = False,
    seed: int = 1,
    change=None,
) -> list[torch.Tensor]:
    """Write {model, ema, optimizer, step} as SlimFlow's trainer does; return the EMA's tensors.

    NCSN++ is wrapped in DataParallel, ADM is not. The raw weights are the network's, the EMA's are drawn anew
    from `seed`. `change` may edit the dict before it is written.
    """
    if parallel is None:
        parallel = isinstance(network, NCSNpp)
    raw = {name: value.clone() for name, value in network.state_dict().items()}
    wrapped = nn.DataParallel(network) if parallel else network
    optimizer = torch.optim.Adam(wrapped.parameters(), lr=2e-4)
    for parameter in wrapped.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    randomise(network, seed)
    shadow = [parameter.detach().clone() for parameter in network.parameters()]
    network.load_state_dict(raw)

    state = wrapped.state_dict()
    if half:
        shadow = [value.half() for value in shadow]
        state = {name: value.half() for name, value in state.items()}
    content = {"optimizer": optimizer.state_dict(), "model": state, "step": 800_000}
    if ema:
        content["ema"] = {"decay": 0.999999, "num_updates": 800_000, "shadow_params": shadow}
    if change is not None:
        change(content)
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return shadow


def edm_state(
    path, network: nn.Module, *, prefix: bool = True, zipped: bool = True, half: bool = False, change=None
) -> None:
    """Write the plain state dict of an EDM network, as .safetensors if the name says so, otherwise by
    `torch.save`.
    """
    state = {
        ("model." if prefix else "") + name: value.clone() for name, value in network.state_dict().items()
    }
    if half:
        state = {name: value.half() for name, value in state.items()}
    if change is not None:
        change(state)
    if Path(path).suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=zipped)


def with_weights(network: nn.Module, values: list[torch.Tensor]) -> nn.Module:
    """Put a list of tensors into the network's parameters, in their order."""
    parameters = list(network.parameters())
    assert len(parameters) == len(values)
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)
    return network
