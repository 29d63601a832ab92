"""Write networks as files that need no flowlit to be read: safetensors, and SlimFlow's layout."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..._support.files import write_atomically
from ...errors import FlowlitError
from ..adm import ADM
from ..unet import UNet
from ..wrappers.preconditioning import EDM
from .layouts import EDMLayout, SlimFlowLayout
from .layouts.base import is_buffer
from .layouts.rules import State
from .safetensors_file import pack
from .spec import spec


def write_safetensors(network: nn.Module, into: Path, facts: dict[str, Any]) -> None:
    """Write a state dict, with the spec of the network and other facts as JSON in its metadata.

    Args:
        network: tensors keep the names of its ``state_dict()``.
        into: the file.
        facts: what ``pretrained`` and ``flowlit.load`` use: weights ("ema", "raw" or the name of another
            average), solver, codec, source.

    Raises:
        FlowlitError: if the network has no spec, or the disk is full.
    """
    description = spec(network)
    if description is None:
        raise FlowlitError(
            f"{type(network).__name__} does not tell how it is built (attribute `spec`); the file would not "
            "stand alone"
        )
    write_state(network.state_dict(), description, into, facts)


def write_state(state: State, description: dict[str, Any] | None, into: Path, facts: dict[str, Any]) -> None:
    """Write a state dict likewise, tensors of any shape, with the spec of its network or None."""
    write_atomically(into, pack(state, {**facts, "network": description}))


def write_slimflow(raw: nn.Module, ema: nn.Module, into: Path, facts: dict[str, Any]) -> None:
    """Write {model, ema, optimizer, step} as SlimFlow's trainer does: DDPM++ behind ``module.``, ADM with
    EDM's names.

    The optimizer is a fresh Adam; the noise levels ``sigmas``, which flows do not use, are zeros.

    Raises:
        FlowlitError: for networks that the layout cannot hold.
    """
    model, average = (in_their_names(network) for network in (raw, ema))
    parameters = [nn.Parameter(tensor) for name, tensor in model.items() if not is_buffer(name)]
    prefix = "module." if isinstance(raw, UNet) else ""
    how = facts.get("ema") or {}
    content = {
        "model": {f"{prefix}{name}": tensor for name, tensor in model.items()},
        "ema": {
            "decay": float(how.get("decay") or 0.999999),
            "num_updates": int(how.get("updates") or 0),
            "shadow_params": [tensor for name, tensor in average.items() if not is_buffer(name)],
        },
        "optimizer": torch.optim.Adam(parameters, lr=2e-4).state_dict(),
        "step": int(facts.get("step", 0)),
    }
    buffer = io.BytesIO()  # on a full disk torch.save itself would raise a RuntimeError without a reason
    torch.save(content, buffer)
    write_atomically(into, buffer.getvalue())


def in_their_names(network: nn.Module) -> State:
    """Return the state dict of a velocity as SlimFlow names and orders it, with its buffers (any shape).

    Raises:
        FlowlitError: for networks that it has not.
    """
    if isinstance(network, UNet):
        return SlimFlowLayout().written(network)
    if isinstance(network, ADM) and network.time.scale == 999:
        return EDMLayout().written(network)
    kind = "a denoiser (EDM)" if isinstance(network, EDM) else f"{type(network).__name__}"
    raise FlowlitError(
        f"the layout of SlimFlow holds UNet and ADM velocities with time_scale 999; this is {kind}. Use "
        "--layout safetensors"
    )
