"""Safetensors with a hash of what they hold, in which shared tensors are once.

The format has no checksums, and no place for one tensor with two names. The facts in the metadata therefore
have ``sha256``, and as ``shared`` the second name of a tensor with its first one.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor

from ...errors import FlowlitError
from .facts import check_facts
from .fingerprint import hash_state
from .tensors import check_dense, check_hashes

State = dict[str, Tensor]


def pack(state: State, facts: dict[str, Any]) -> bytes:
    """Return a state dict, tensors of any shape, as safetensors, with facts as JSON in their metadata.

    Raises:
        FlowlitError: for a state that is no tensor, or of a type that the format lacks.
    """
    check_only_tensors(state)
    shared = second_names(state)
    own = {name: value.detach() for name, value in state.items() if name not in shared}
    storages = Counter(value.untyped_storage().data_ptr() for value in own.values())
    tensors = {
        name: (value.clone() if storages[value.untyped_storage().data_ptr()] > 1 else value).contiguous()
        for name, value in own.items()
    }
    facts = {**facts, **({"shared": shared} if shared else {})}
    written = {**facts, "sha256": {"file": _digest(state, facts)}}
    try:  # one entry, or their order would differ from file to file
        return to_safetensors(tensors, {"flowlit": json.dumps(written, sort_keys=True)})
    except (KeyError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        raise FlowlitError(f"the weights cannot be written as safetensors ({error})") from error


def check_only_tensors(state: Mapping[str, Any]) -> None:
    """Refuse a state dict with something else than tensors (any shape).

    Raises:
        FlowlitError: naming the first.
    """
    other = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if other:
        raise FlowlitError(
            f"{other[0]} of the network is no tensor, and safetensors hold nothing else; let the network "
            "keep it as a buffer, or build it in its constructor"
        )


def second_names(state: State) -> dict[str, str]:
    """Return the names of tensors (any shape) that are there under another name already, and that name."""
    first: dict[Any, str] = {}
    second: dict[str, str] = {}
    for name, value in state.items():
        place = (value.data_ptr(), value.shape, value.stride(), value.dtype, value.device)
        if value.numel() and first.setdefault(place, name) != name:
            second[name] = first[place]
    return second


def unpack(path: Path) -> tuple[State, dict[str, Any] | None]:
    """Return the tensors of a file (any shape), and the facts in its metadata; None in those of others.

    Raises:
        FlowlitError: if it is torn, or not what flowlit wrote.
    """
    try:
        with safetensors.safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
        state = load_file(path)
        facts = json.loads(metadata.get("flowlit", "null"))
    except Exception as error:  # whatever a parser makes of bytes that are no such file
        why = str(error).strip().split("\n")[0][:120] or type(error).__name__
        raise FlowlitError(
            f"checkpoint {path} is torn or no safetensors file ({why}); convert or fetch it again"
        ) from error
    if not isinstance(facts, dict):
        return state, None
    check_facts(facts, path)
    shared = facts.get("shared") or {}
    if unknown := [first for first in shared.values() if first not in state]:
        raise FlowlitError(f"checkpoint {path} lacks {unknown[0]}; convert or fetch it again")
    state |= {name: state[first] for name, first in shared.items()}
    check_dense(state, path)
    hashes = facts.pop("sha256", {})
    check_hashes(hashes, {"file": _digest(state, facts)}, path)
    return state, facts


def _digest(state: State, facts: dict[str, Any]) -> str:
    text = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(f"{hash_state(state)} {text}".encode()).hexdigest()
