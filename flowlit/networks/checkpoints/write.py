"""Write networks as files that need no flowlit to be read: safetensors, and the layout of Rectified Flow and
SlimFlow.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from ..._support.files import write_atomically
from ...errors import FlowlitError
from ..adm import ADM
from ..unet import UNet
from ..wrappers.preconditioning import EDM
from .layouts import edm, slimflow
from .layouts.base import State, to_theirs
from .spec import spec


def write_safetensors(network: nn.Module, into: Path, facts: dict[str, Any]) -> None:
    """Write a state dict, with how the network is built (and what else is known of it) as JSON in its
    metadata.

    Args:
        network: tensors keep the names of its ``state_dict()``.
        into: the file.
        facts: what ``pretrained`` and ``flowlit.load`` want to know: weights ("ema", "raw" or the name of
            another average), solver, codec, source.

    Raises:
        FlowlitError: if the network cannot tell how it is built, or the disk is full.
    """
    description = spec(network)
    if description is None:
        raise FlowlitError(
            f"{type(network).__name__} does not tell how it is built (attribute `spec`); the file would not "
            "stand alone"
        )
    write_state(network.state_dict(), description, into, facts)


def write_state(state: State, description: dict[str, Any] | None, into: Path, facts: dict[str, Any]) -> None:
    """Write a state dict likewise, of a network that is described (or, None, not)."""
    told = json.dumps({**facts, "network": description}, sort_keys=True)
    tensors = {name: tensor.detach().contiguous() for name, tensor in state.items()}
    write_atomically(into, to_safetensors(tensors, {"flowlit": told}))


def write_slimflow(raw: nn.Module, ema: nn.Module, into: Path, facts: dict[str, Any]) -> None:
    """Write {model, ema, optimizer, step} as SlimFlow's trainer does: DDPM++ behind ``module.``, ADM with
    EDM's names.

    The optimizer is a fresh Adam; the noise levels ``sigmas``, which flows do not use, are zeros.

    Raises:
        FlowlitError: for networks that the layout cannot hold.
    """
    model, average = (in_their_names(network) for network in (raw, ema))
    parameters = [nn.Parameter(tensor) for name, tensor in model.items() if not edm.is_buffer(name)]
    told = facts.get("ema") or {}
    content = {
        "model": {f"module.{name}": tensor for name, tensor in model.items()}
        if isinstance(raw, UNet)
        else model,
        "ema": {
            "decay": float(told.get("decay") or 0.999999),
            "num_updates": int(told.get("updates") or 0),
            "shadow_params": [tensor for name, tensor in average.items() if not edm.is_buffer(name)],
        },
        "optimizer": torch.optim.Adam(parameters, lr=2e-4).state_dict(),
        "step": int(facts.get("step", 0)),
    }
    buffer = io.BytesIO()  # on a full disk torch.save itself would raise a RuntimeError that tells nothing
    torch.save(content, buffer)
    write_atomically(into, buffer.getvalue())


def in_their_names(network: nn.Module) -> State:
    """The state dict of a velocity as SlimFlow names and orders it, with its buffers.

    Raises:
        FlowlitError: for networks that it has not.
    """
    state: dict[str, Tensor] = network.state_dict()
    if isinstance(network, UNet):
        return {"sigmas": torch.zeros(1000), **to_theirs(state, slimflow.rules(network))}
    if isinstance(network, ADM) and network.time.scale == 999:
        return edm.with_filters(to_theirs(state, edm.rules(network)))
    kind = "a denoiser (EDM)" if isinstance(network, EDM) else f"{type(network).__name__}"
    raise FlowlitError(
        f"the layout of SlimFlow holds UNet and ADM velocities with time_scale 999; this is {kind}. Use "
        "--layout safetensors"
    )
