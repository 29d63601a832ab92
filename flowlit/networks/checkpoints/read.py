"""Open files of weights as plain data, whoever wrote them; see docs/checkpoints.md."""

from __future__ import annotations

import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from ...errors import FlowlitError
from .layouts import edm, slimflow
from .layouts.base import State, ordered

Weights = str
"""Which weights of a file: "ema", "raw", or the name of another average that a run of flowlit kept."""


Layout = Literal["flowlit", "slimflow", "edm"]


NAMES = {"ema": "average", "raw": "raw weights"}


class Contents(NamedTuple):
    """What a file of weights holds."""

    layout: Layout
    # "raw", "ema", names of other averages, or "only" where the file does not tell which it holds
    states: dict[str, State]
    velocity: bool = True  # whether the network predicts a velocity, or (EDM's) is inside a denoiser
    facts: dict[str, Any] = {}  # what a file of flowlit's says of its network, solver, codec and average
    shadow: list[Any] | None = None  # an average without names, in the order of the parameters of "raw"
    presumed: bool = False  # whether it is only by convention that the network predicts this and not that

    def holds(self, weights: Weights) -> bool:
        return (
            weights in self.states or "only" in self.states or (weights == "ema" and self.shadow is not None)
        )

    def state(self, weights: Weights, file: str | Path) -> State:
        """The weights of one kind.

        Raises:
            FlowlitError: if the file does not hold them, or its average is of another network.
        """
        if weights == "ema" and self.shadow is not None:
            return ordered(
                self.shadow, [name for name in self.states["raw"] if not edm.is_buffer(name)], str(file)
            )
        self.check(weights, file)
        for kind in (weights, "only"):
            if kind in self.states:
                return self.states[kind]
        never = weights == "ema" and self.layout == "flowlit" and not self.facts.get("ema_updates")
        why = " (it was trained without EMA, or not up to its first move)" if never else ""
        raise FlowlitError(
            f"checkpoint {file} holds no {NAMES[weights]}{why}; use weights: {', '.join(self.states)}"
        )

    def check(self, weights: Weights, file: str | Path) -> None:
        """Refuse names of averages that the file does not hold.

        Raises:
            FlowlitError: naming those that it does.
        """
        known = list(dict.fromkeys(("ema", "raw", *(name for name in self.states if name != "only"))))
        if weights not in known:
            raise FlowlitError(
                f"checkpoint {file}: weights is {weights!r}; expected {' or '.join(map(repr, known))}"
            )

    def average(self, weights: Weights) -> dict[str, Any]:
        """How an average was taken, and over how many updates, if the file tells; {} for trained weights."""
        if weights == "raw":
            return {}
        return (self.facts.get("averages") or {}).get(weights) or self.facts.get("ema") or {}


def read_file(path: str | Path) -> Any:
    """Open a file as plain data, mapped rather than loaded where it can be.

    Raises:
        FlowlitError: if it is missing, torn, or needs code to unpickle.
    """
    if not Path(path).is_file():
        raise FlowlitError(
            f"checkpoint {path} does not exist; run the stage that writes it first (see the header of its "
            "YAML), or mend the path"
        )
    try:
        with warnings.catch_warnings(action="ignore"):  # about the protocol of a pickle, before it is refused
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        if not _named(error) and Path(path).suffix != ".pkl":
            raise FlowlitError(
                f"checkpoint {path} is refused: it is none, or holds more than plain data; see "
                "docs/checkpoints.md"
            ) from error
        raise FlowlitError(
            f"checkpoint {path} is refused: reading it would run code that is stored in it{_named(error)}. "
            "EDM publishes such "
            "files. Where you trust it, turn it into plain weights with the project that wrote it: "
            'torch.save(network.state_dict(), "weights.pt"), and read those'
        ) from error
    except Exception as error:  # whatever a parser makes of bytes that are no checkpoint
        raise FlowlitError(
            f"checkpoint {path} is torn or not a checkpoint ({_first(error)}); use an older one, or fetch "
            "it again"
        ) from error


def _named(error: Exception) -> str:
    """What a pickle wanted to call, if PyTorch tells; not its advice to let it."""
    found = re.search(r"Unsupported (?:global: GLOBAL|class) (\S+)", str(error)) or re.search(
        r"GLOBAL (\S+)", str(error)
    )
    return f" (it names {found[1]})" if found else ""


def _first(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:120] or type(error).__name__


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Open a Lightning checkpoint as plain data (``weights_only``).

    Raises:
        FlowlitError: as ``read_file``, and if it is none.
    """
    checkpoint = read_file(path)
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise FlowlitError(f"checkpoint {path} has no state_dict; expected one that flowlit wrote")
    return checkpoint


def read_contents(path: str | Path) -> Contents:
    """Open any file of weights that flowlit knows.

    Raises:
        FlowlitError: as ``read_file``, and for layouts that it does not know.
    """
    if Path(path).suffix == ".safetensors":
        return _safetensors(path)
    content = read_file(path)
    if isinstance(content, Mapping):
        if isinstance(content.get("flowlit"), Mapping) and _is_named(content.get("state_dict")):
            return _flowlit(content)
        if _is_named(content.get("model")):
            return _trained(content, str(path))
        kinds = {"raw": ("net", "state_dict"), "ema": ("ema",)}
        nested = {
            kind: content[key] for kind, keys in kinds.items() for key in keys if _is_state(content.get(key))
        }
        if nested or _is_state(content):
            return _plain(nested if len(nested) > 1 else {"only": next(iter(nested.values()), content)}, path)
    raise _unknown(path, content)


def _is_named(content: Any) -> bool:
    return isinstance(content, Mapping) and bool(content) and all(isinstance(name, str) for name in content)


def _is_state(content: Any) -> bool:
    return _is_named(content) and all(isinstance(value, Tensor) for value in content.values())


def _unknown(path: str | Path, content: Any) -> FlowlitError:
    keys = (
        f"keys {', '.join(map(str, list(content)[:4]))} …"
        if isinstance(content, Mapping)
        else f"a {type(content).__name__}"
    )
    return FlowlitError(
        f"checkpoint {path} has {keys}; expected one that flowlit wrote (state_dict), one of Rectified Flow "
        "or SlimFlow (model, "
        "ema), or a state dict of EDM's DDPM++ or ADM; see docs/checkpoints.md"
    )


def _flowlit(content: Mapping[str, Any]) -> Contents:
    facts = content["flowlit"]
    states = {}
    prefixes = {"raw": "network.", **({"ema": "ema."} if facts.get("ema_updates") else {})}
    prefixes |= {name: f"averages.{name}." for name, told in (facts.get("averages") or {}).items() if told}
    for kind, prefix in prefixes.items():
        states[kind] = {
            k.removeprefix(prefix): v for k, v in content["state_dict"].items() if k.startswith(prefix)
        }
    return Contents("flowlit", states, facts={**facts, "step": content.get("global_step", 0)})


def _trained(content: Mapping[str, Any], file: str) -> Contents:
    """What Rectified Flow and SlimFlow save: a model, its average as a list, optimizer and step."""
    raw, preconditioned = _without_prefix(content["model"])
    layout = _layout(raw)
    if layout is None:
        raise _unknown(file, content["model"])
    average = content.get("ema")
    states = {"raw": raw}
    facts = {"step": content.get("step", 0)}
    shadow = None
    if isinstance(average, Mapping) and _is_state(average):
        states["ema"] = _without_prefix(average)[0]
    elif isinstance(average, Mapping) and isinstance(average.get("shadow_params"), (list, tuple)):
        shadow = list(average["shadow_params"])
        facts["ema"] = {"decay": average.get("decay"), "updates": average.get("num_updates")}
    return Contents(layout, states, layout == "slimflow" or not preconditioned, facts, shadow)


def _plain(states: Mapping[str, Mapping[str, Tensor]], path: str | Path) -> Contents:
    """State dicts without more: EDM's names are taken for its denoiser, unless a given network knows
    better.
    """
    bare = {kind: _without_prefix(state) for kind, state in states.items()}
    first, preconditioned = next(iter(bare.values()))
    layout = _layout(first)
    if layout is None:
        raise _unknown(path, next(iter(states.values())))
    found = {kind: state for kind, (state, _) in bare.items()}
    return Contents(
        layout, found, velocity=layout == "slimflow", presumed=layout == "edm" and not preconditioned
    )


def _layout(state: Mapping[str, Tensor]) -> Layout | None:
    return "slimflow" if slimflow.is_slimflow(state) else "edm" if edm.is_edm(state) else None


def _without_prefix(state: Mapping[str, Any]) -> tuple[State, bool]:
    """Names without what DataParallel, torch.compile and EDM's preconditioner (model.) put before them;
    whether the last did.
    """
    preconditioned = False
    while state and all(name.startswith(("module.", "_orig_mod.", "model.")) for name in state):
        preconditioned |= all(name.startswith("model.") for name in state)
        state = {name.partition(".")[2]: value for name, value in state.items()}
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}, preconditioned


def _safetensors(path: str | Path) -> Contents:
    if not Path(path).is_file():
        raise FlowlitError(f"checkpoint {path} does not exist; `flowlit convert` writes such files")
    try:
        with safetensors.safe_open(str(path), "pt") as file:
            told = json.loads((file.metadata() or {}).get("flowlit", "null"))
        state = load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise FlowlitError(
            f"checkpoint {path} is torn or no safetensors file ({_first(error)}); convert or fetch it again"
        ) from error
    if isinstance(told, dict) and isinstance(told.get("weights"), str):
        return Contents("flowlit", {told["weights"]: state}, facts=told)
    return _plain({"only": state}, path)
