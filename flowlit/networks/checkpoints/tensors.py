"""Weights of a file: whether they are ordinary numbers in ordinary tensors, and those that were written."""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import FlowlitError
from .fingerprint import hash_state

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
"""Types of weights that can be read into each other."""


REPEATS = 32
"""Times that the bytes of tensors may be those of their storages: layers share weights."""


def check_dense(state: Mapping[str, Any], file: str | Path) -> None:
    """Refuse values that are no tensors, or tensors (any shape) that have no number for each of their places.

    Raises:
        FlowlitError: naming the first, or if they are the same numbers again and again.
    """
    for name, value in state.items():
        problem = "" if is_extra(name) and not isinstance(value, Tensor) else _problem(value)
        if problem:
            raise FlowlitError(
                f"checkpoint {file}: {name} is {problem}, expected a dense tensor of numbers; use another one"
            )
    tensors = [value for value in state.values() if isinstance(value, Tensor)]
    storages = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in tensors}
    stored = sum(storages.values())
    if sum(value.nbytes for value in tensors) > REPEATS * stored:
        raise FlowlitError(
            f"checkpoint {file}: its {len(tensors)} tensors are the same {stored:,} bytes more than "
            f"{REPEATS} times; use another one"
        )


def _problem(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    if value.is_nested or value.layout != torch.strided:
        return "nested" if value.is_nested else str(value.layout)
    if value.is_quantized or value.is_meta:
        return str(value.dtype) if value.is_quantized else "without content (meta)"
    if value.dtype.is_complex or (value.dtype.is_floating_point and value.dtype not in FLOATS):
        return str(value.dtype)
    if value.nbytes > value.untyped_storage().nbytes():
        return f"of shape {tuple(value.shape)}, but repeats fewer numbers"
    return ""


def is_extra(name: str) -> bool:
    """Return whether a name in a state dict is that of a module's own state, which need be no tensor."""
    return name.rpartition(".")[2] == "_extra_state"


def kind(tensor: Tensor) -> str:
    """Return the kind of numbers in a tensor of any shape: floating-point ones of any precision are alike."""
    return "floating-point" if tensor.dtype in FLOATS else str(tensor.dtype).removeprefix("torch.")


def parameters_of(network: nn.Module) -> set[str]:
    """Return the names of all parameters, also second names of shared ones."""
    return {name for name, _ in network.named_parameters(remove_duplicate=False)}


def non_finite(state: Mapping[str, Any], parameters: Container[str]) -> list[str]:
    """Return the names of tensors (any shape) with NaN, and of parameters with infinities.

    Buffers may be infinite: masks of attention are.
    """
    return [
        name
        for name, value in state.items()
        if isinstance(value, Tensor)
        and value.dtype in FLOATS
        and not (value.isfinite() if name in parameters else ~value.isnan()).all()
    ]


def check_finite(state: Mapping[str, Any], network: nn.Module, source: str) -> None:
    """Refuse weights, tensors of any shape, that no network can work with.

    Args:
        state: under the names of the network's state dict.
        network: that they are of.
        source: for the message.

    Raises:
        FlowlitError: naming the first.
    """
    if broken := non_finite(state, parameters_of(network)):
        raise FlowlitError(
            f"{source}: {broken[0]} is not finite (and {len(broken) - 1} more); use an older checkpoint"
        )


def part_of(name: str) -> tuple[str, str]:
    """Return the part of a checkpoint that a tensor belongs to, and the name that it has there.

    >>> part_of("network.head.weight"), part_of("averages.long.head.weight")
    (('network', 'head.weight'), ('averages.long', 'head.weight'))
    """
    parts = 2 if name.startswith("averages.") else 1
    words = name.split(".")
    return ".".join(words[:parts]), ".".join(words[parts:])


def moments(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the optimizers of a checkpoint have of each parameter: tensors (any shape), and others."""
    return {
        f"{index}.{parameter}.{name}": value
        for index, state in enumerate(checkpoint.get("optimizer_states", []))
        for parameter, values in state["state"].items()
        for name, value in values.items()
    }


def hash_parts(checkpoint: Mapping[str, Any]) -> dict[str, str]:
    """Return a SHA-256 of the weights of each network and average in a checkpoint, and of its optimizers."""
    parts: dict[str, dict[str, Any]] = {}
    for name, value in checkpoint["state_dict"].items():
        part, inside = part_of(name)
        parts.setdefault(part, {})[inside] = value
    if state := moments(checkpoint):
        parts["optimizers"] = state
    return {part: hash_state(state) for part, state in parts.items()}


def check_hashes(expected: Mapping[str, str], found: Mapping[str, str], file: str | Path) -> None:
    """Refuse weights that are not those that flowlit wrote.

    Args:
        expected: SHA-256 of each part, as the file says; {} in files of earlier versions.
        found: those of the parts that are there.
        file: for the message.

    Raises:
        FlowlitError: naming the part.
    """
    for part in dict.fromkeys((*found, *expected) if expected else ()):
        if expected.get(part) != found.get(part):
            raise FlowlitError(
                f"checkpoint {file}: {part} is not what flowlit wrote (its SHA-256 differs); use an older "
                'one, or fetch it again. If you changed it on purpose, delete its ["flowlit"]["sha256"]'
            )
