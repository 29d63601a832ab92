"""Read networks from flowlit's own checkpoints, without running code that is stored in a file."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import ArgumentError, ArgumentParser
from torch import Tensor, nn

from ..files import file_hash
from ..types import FlowlitError

Weights = Literal["ema", "raw"]


def spec(thing: Any) -> dict[str, Any] | None:
    """Describe how to build an object again, as {"class_path", "init_args"}; None if it cannot be told.

    Networks tell it by an attribute ``spec``; dataclasses (solvers) and objects without state (codecs) are read.
    """
    path = f"{type(thing).__module__}.{type(thing).__qualname__}"
    if isinstance(told := getattr(thing, "spec", None), dict):
        return told
    if is_dataclass(thing):
        return {"class_path": path, "init_args": asdict(thing)}  # type: ignore[arg-type]
    return None if vars(thing) else {"class_path": path, "init_args": {}}


def build(description: dict[str, Any], base: type) -> Any:
    """Build an object from its spec; only subclasses of ``base`` are accepted.

    Raises:
        FlowlitError: if the class cannot be imported, is of another kind, or takes other arguments.
    """
    module, _, name = str(description.get("class_path")).rpartition(".")
    try:
        kind = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise FlowlitError(f"cannot import {module}.{name}, which a checkpoint names ({error}); is it on PYTHONPATH?") from error
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise FlowlitError(f"{module}.{name}, which a checkpoint names, is not a {base.__name__}; refused")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(base, "it")
    try:
        return parser.instantiate_classes(parser.parse_object({"it": description})).it
    except (ArgumentError, ValueError, TypeError) as error:
        raise FlowlitError(f"cannot build {description.get('class_path')} as its checkpoint describes it: {error}") from error


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Open a Lightning checkpoint as plain data (``weights_only``), mapped rather than loaded.

    Raises:
        FlowlitError: if it is missing, torn, or needs code to unpickle.
    """
    if not Path(path).is_file():
        raise FlowlitError(f"checkpoint {path} does not exist; run the stage that writes it first (see the header of its YAML)")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise FlowlitError(f"checkpoint {path} is refused: reading it would run code that is stored in it ({error})") from error
    except (RuntimeError, EOFError, OSError) as error:
        raise FlowlitError(f"checkpoint {path} is torn or not a checkpoint ({error}); use an older one") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise FlowlitError(f"checkpoint {path} has no state_dict; expected one that flowlit wrote")
    return checkpoint


def mismatch(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], most: int = 3) -> str:
    """Tell how two state dicts differ, key by key and shape by shape; '' if they fit."""
    shapes = [
        f"{key} is {tuple(found[key].shape)} there, {tuple(expected[key].shape)} here"
        for key in expected
        if key in found and found[key].shape != expected[key].shape
    ]
    groups = {
        "missing there": [key for key in expected if key not in found],
        "unknown here": [key for key in found if key not in expected],
        "of another shape": shapes,
    }
    return "; ".join(
        f"{len(keys)} {name}: {', '.join(keys[:most])}{' …' if len(keys) > most else ''}" for name, keys in groups.items() if keys
    )


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Load strictly.

    Raises:
        FlowlitError: naming keys and shapes, if the weights are of another architecture.
    """
    if difference := mismatch(network.state_dict(), weights):
        raise FlowlitError(f"{source} is of another architecture than {type(network).__name__}: {difference}")
    network.load_state_dict(weights)


def pretrained(checkpoint: str, weights: Weights = "ema", network: nn.Module | None = None) -> nn.Module:
    """Take the network of a checkpoint, with its weights. Initialises; to resume a run use ``--ckpt_path``.

    Args:
        checkpoint: written by ``flowlit fit``.
        weights: "ema" for the average (what one samples from), "raw" for the trained weights.
        network: build this one instead of the one that the checkpoint describes; needed for networks without ``spec``.

    Raises:
        FlowlitError: if the file is missing, torn or unsafe, holds no average, or is of another architecture.
    """
    content = read_checkpoint(checkpoint)
    facts = content.get("flowlit", {})
    if weights not in ("ema", "raw"):
        raise FlowlitError(f"pretrained: weights is {weights!r}; expected 'ema' or 'raw'")
    if weights == "ema" and not facts.get("ema_updates"):
        raise FlowlitError(f"checkpoint {checkpoint} holds no average (it was trained without EMA); use weights: raw")
    if network is None:
        if facts.get("network") is None:
            raise FlowlitError(f"checkpoint {checkpoint} does not tell how its network is built; give it as network")
        network = build(facts["network"], nn.Module)
        if not hasattr(network, "spec"):
            network.spec = facts["network"]  # type: ignore[assignment]  # so that the next checkpoint stands alone
    prefix = "ema." if weights == "ema" else "network."
    state = {k.removeprefix(prefix): v for k, v in content["state_dict"].items() if k.startswith(prefix)}
    load_weights(network, state, f"checkpoint {checkpoint}")
    told = {"file": str(checkpoint), "sha256": file_hash(checkpoint), "weights": weights}  # for manifests and reports
    network.loaded = {**told, **({"ema": facts["ema"]} if weights == "ema" and facts.get("ema") else {})}  # type: ignore[assignment]
    return network
