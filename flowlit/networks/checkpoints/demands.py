"""Demands on a network whose weights are averaged, saved and read again, checked when it is built."""

from __future__ import annotations

import io
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ...errors import FlowlitError

ADVICE = (
    " Use torch.nn.utils.parametrizations.weight_norm in place of torch.nn.utils.weight_norm, and keep no "
    "other tensors that were computed from parameters"
)


def check_network(network: nn.Module) -> None:
    """Refuse a network whose weights could not be saved.

    Raises:
        FlowlitError: naming a parameter without shape or content, or a state that is no plain data, or of
            complex numbers.
    """
    kind = type(network).__name__
    tensors = [*network.named_parameters(), *network.named_buffers()]
    empty = [name for name, value in tensors if is_lazy(value) or value.is_meta]
    if empty:
        raise FlowlitError(
            f"{kind}: {empty[0]} has no values yet (a lazy module, or one on the device meta); give its "
            "layers their sizes, or call the network once in its constructor"
        )
    for name, value in network.state_dict().items():
        if not isinstance(value, Tensor) and not _is_plain(value):
            raise FlowlitError(
                f"{kind}: {name} is a {type(value).__name__}, which no checkpoint can be read with again; "
                "return tensors, numbers and text from get_extra_state"
            )
        if isinstance(value, Tensor) and value.is_complex():
            raise FlowlitError(
                f"{kind}: {name} is of complex numbers, which no checkpoint here may hold; keep real and "
                "imaginary parts (torch.view_as_real), or register the buffer with persistent=False"
            )


def _is_plain(value: Any) -> bool:
    """Return whether a value can be read from a checkpoint without running code."""
    buffer = io.BytesIO()
    try:
        torch.save(value, buffer)
        buffer.seek(0)
        torch.load(buffer, weights_only=True)
    except Exception:  # whatever pickle makes of objects of any kind
        return False
    return True


def check_trainable(network: nn.Module) -> None:
    """Refuse to train a network of which no parameter would move.

    Raises:
        FlowlitError: saying how that comes about.
    """
    parameters = list(network.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        raise FlowlitError(
            f"no parameter of {type(network).__name__} requires a gradient, so there is nothing to train; it "
            "is frozen, or the same object as a guide or teacher: give those a copy"
        )


def copied(network: nn.Module) -> nn.Module:
    """Return a deep copy of a network.

    Raises:
        FlowlitError: if it cannot be copied, naming the layer.
    """
    try:
        return deepcopy(network)
    except Exception as error:  # whatever the layers of a user make of it
        layer = _first_uncopied(network)
        why = str(error).strip().split("\n")[0][:120]
        advice = ADVICE if "deepcopy protocol" in str(error) else ""
        raise FlowlitError(
            f"{type(network).__name__} cannot be copied, as averages of its weights must be: {layer} ({why})."
            f"{advice}"
        ) from error


def _first_uncopied(network: nn.Module) -> str:
    """Return the innermost layer that cannot be copied, by name and class."""
    last = ("the network itself", network)
    for name, layer in network.named_modules():
        try:
            deepcopy(layer)
        except Exception:  # as above
            last = (name or last[0], layer)
    return f"{last[0]}, a {type(last[1]).__name__}"
