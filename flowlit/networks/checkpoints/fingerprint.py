"""Identity of an object: all that decides what it computes, as plain data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..._support.names import public_path
from ...frozen import FrozenLayers

_PASSING = (
    "training",
    "loaded",
    "codec",
    "text_encoder",
    "class_names",
    "trained_on",
    "report",
)  # attributes of networks that do not change what they compute


def fingerprint(network: nn.Module) -> str:
    """Hash names, shapes and bytes of all weights (SHA-256), independently of their file."""
    return hash_state(network.state_dict())


def features_of(objective: nn.Module | None) -> dict[str, str]:
    """Return the frozen networks whose features an objective compares: hash of weights to name of its part.

    Names of weights do not count, so that a network within another has the same hash as alone.
    """
    names = {}
    for part in [] if objective is None else objective.modules():
        values = [*vars(part).values(), getattr(part, "features", None)]  # some load theirs then
        for network in [each.network for each in values if isinstance(each, FrozenLayers)]:
            if any(True for _ in network.parameters()):
                names[hash_weights(network)] = type(part).__name__
    return names


def hash_weights(network: nn.Module) -> str:
    """Hash shapes and bytes of parameters in their order (SHA-256)."""
    return hash_state({f"{i:06}": parameter for i, parameter in enumerate(network.parameters())})


def hash_state(state: Mapping[str, Any]) -> str:
    """Hash names, shapes and bytes of tensors of any shape, and what else is among them (SHA-256)."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        if isinstance(value, Tensor) and value.layout == torch.strided:
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            digest.update(_bytes(value))
        else:
            digest.update(f"{name} {value!r}".encode())
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> Any:
    return tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().view(-1).view(torch.uint8).numpy()


def identity(thing: Any) -> Any:
    """Describe an object by its class, its public attributes and, of networks, its weights.

    Descriptions are equal for objects that compute the same. Two networks with equal weights and another
    guidance scale differ, and so do solvers of one class with other fields.

    >>> identity((1, "two", None))
    [1, 'two', None]
    """
    return _describe(thing, ())


def _describe(thing: Any, above: tuple[int, ...]) -> Any:
    if thing is None or isinstance(thing, (bool, int, float, str)):
        return thing
    if id(thing) in above:
        return "itself"
    above = (*above, id(thing))
    if isinstance(thing, Mapping):
        return {str(key): _describe(value, above) for key, value in thing.items()}
    if isinstance(thing, (list, tuple, set, frozenset)):
        return [_describe(value, above) for value in thing]
    if isinstance(thing, (Tensor, np.ndarray)):
        content = _bytes(thing) if isinstance(thing, Tensor) else thing.tobytes()
        return {"shape": list(thing.shape), "sha256": hashlib.sha256(content).hexdigest()}
    if isinstance(thing, nn.Module):
        return {"weights": fingerprint(thing), **_structure(thing, above)}
    if hasattr(thing, "__qualname__"):  # a class or a function
        return public_path(thing)
    name = public_path(type(thing))
    own = getattr(thing, "fingerprint", None)
    if isinstance(own, str):
        return {"class": name, "fingerprint": own}
    return {"class": name, **dict(_attributes(thing, above))}


def _structure(network: nn.Module, above: tuple[int, ...]) -> dict[str, Any]:
    children = {name: _structure(child, (*above, id(child))) for name, child in network.named_children()}
    return {
        "class": public_path(type(network)),
        **dict(_attributes(network, above)),
        **children,
    }


def _attributes(thing: Any, above: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
    for name, value in sorted(getattr(thing, "__dict__", {}).items()):
        if not name.startswith("_") and name not in _PASSING:
            yield name, _describe(value, above)
