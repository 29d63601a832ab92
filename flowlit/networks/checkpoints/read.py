"""Open files of weights, ours and other projects', as plain data; see docs/checkpoints.md."""

from __future__ import annotations

import logging
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import FlowlitError
from .archive import check_archive, check_keys, is_archive, torn
from .contents import Contents
from .facts import check_facts
from .layouts import LAYOUTS, Layout, OwnLayout
from .layouts.rules import State
from .locate import locate
from .run import RUN, WEIGHTS
from .safetensors_file import unpack
from .tensors import check_dense, check_hashes, hash_parts, moments, part_of


def read_file(checkpoint: str | Path) -> Any:
    """Open a file as plain data, mapped rather than loaded where it can be, after its checksums are compared.

    Raises:
        FlowlitError: if it is missing, damaged, or needs code to unpickle.
    """
    path = locate(checkpoint)
    try:
        checked = is_archive(path)
        (check_archive if checked else check_keys)(path)
        with warnings.catch_warnings(action="ignore"):  # about the protocol of a pickle, before it is refused
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=checked)
    except pickle.UnpicklingError as error:
        if not _named(error) and Path(path).suffix != ".pkl":
            raise FlowlitError(
                f"checkpoint {path} is refused: it is none, or holds more than plain data; see "
                "docs/checkpoints.md"
            ) from error
        raise FlowlitError(
            f"checkpoint {path} is refused: reading it would run code that is stored in it{_named(error)}. "
            "EDM publishes such files. Where you trust it, turn it into plain weights with the project that "
            'wrote it: torch.save(network.state_dict(), "weights.pt"), and read those'
        ) from error
    except FlowlitError:
        raise
    except Exception as error:  # whatever a parser makes of bytes that are no checkpoint
        unlike = ValueError("it has no format that PyTorch writes")
        raise torn(path, error if checked else unlike) from error
    if not checked:
        logging.getLogger("flowlit").warning(
            "checkpoint %s has no checksums (PyTorch's format before 1.6): damage would not be noticed", path
        )
    return content


def _named(error: Exception) -> str:
    """Return the name that a pickle calls, if PyTorch's message has it, without its advice to allow that."""
    text = str(error)
    name = re.search(r"Unsupported (?:global: GLOBAL|class) (\S+)", text) or re.search(r"GLOBAL (\S+)", text)
    return f" (it names {name[1]})" if name else ""


def read_checkpoint(path: str | Path, resume: bool = False) -> dict[str, Any]:
    """Open a Lightning checkpoint as plain data (``weights_only``), in which everything is as it was written.

    Args:
        path: of the file.
        resume: a run is to go on from it, so it must have a run's loops and optimizers.

    Raises:
        FlowlitError: as ``read_file``; if it is none, its facts are unsound, or its weights damaged.
    """
    if Path(path).suffix == ".safetensors":
        raise FlowlitError(
            f"checkpoint {path} holds weights only; expected a .ckpt, or read it as the network "
            "(flowlit.networks.pretrained)"
        )
    checkpoint = read_file(path)
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise FlowlitError(f"checkpoint {path} has no state_dict; expected one that flowlit wrote")
    if resume and ("loops" not in checkpoint or "optimizer_states" not in checkpoint):
        raise FlowlitError(
            f"checkpoint {path} holds weights only, so no run can go on from it; start one from its weights "
            "(network: flowlit.networks.pretrained)"
        )
    (RUN if resume else WEIGHTS).check(checkpoint, f"checkpoint {path}")
    check_facts(checkpoint.get("flowlit", {}), path)
    check_dense(checkpoint["state_dict"], path)
    if expected := checkpoint.get("flowlit", {}).get("sha256"):
        if "optimizer_states" not in checkpoint:  # left out, as files to give away are made smaller
            expected = {part: digest for part, digest in expected.items() if part != "optimizers"}
        tensors = {name: value for name, value in moments(checkpoint).items() if isinstance(value, Tensor)}
        check_dense(tensors, path)
        check_hashes(expected, hash_parts(checkpoint), path)
    return checkpoint


def read_contents(path: str | Path) -> Contents:
    """Open a file of weights in our layout, or in one of ``LAYOUTS``.

    Raises:
        FlowlitError: as ``read_file``, and for other layouts.
    """
    located = locate(path)
    if located.suffix == ".safetensors":
        return _safetensors(located)
    content = read_file(located)
    if isinstance(content, Mapping):
        if isinstance(content.get("flowlit"), Mapping) and _is_named(content.get("state_dict")):
            return _own(content, str(path))
        if _is_named(content.get("model")):
            return _trained(content, str(path))
        kinds = {"raw": ("net", "state_dict"), "ema": ("ema",)}
        nested = {
            kind: content[key] for kind, keys in kinds.items() for key in keys if _is_state(content.get(key))
        }
        if nested or _is_state(content):
            return _plain(nested if len(nested) > 1 else {"only": next(iter(nested.values()), content)}, path)
    raise _unknown(path, content)


def read_state(path: str | Path) -> State:
    """Open the weights of a network that no layout is for: a state dict, or the one inside a file.

    Raises:
        FlowlitError: as ``read_file``, and for files of another form.
    """
    located = locate(path)
    if located.suffix == ".safetensors":
        return _without_prefix(unpack(located)[0], path)[0]
    content = read_file(located)
    inside = content.get("state_dict") if isinstance(content, Mapping) else None
    state = next((each for each in (inside, content) if _is_state(each)), None)
    if state is None:
        raise FlowlitError(f"checkpoint {path} has no state dict; expected names of tensors, or state_dict")
    return _without_prefix(state, path)[0]


def _is_named(content: Any) -> bool:
    return isinstance(content, Mapping) and bool(content) and all(isinstance(name, str) for name in content)


def _is_state(content: Any) -> bool:
    return _is_named(content) and all(isinstance(value, Tensor) for value in content.values())


def _unknown(path: str | Path, content: Any) -> FlowlitError:
    keys = f"a {type(content).__name__}"
    if isinstance(content, Mapping):
        keys = f"keys {', '.join(map(str, list(content)[:4]))} …"
    return FlowlitError(
        f"checkpoint {path} has {keys}; expected one that flowlit wrote (state_dict), one of Rectified Flow "
        "or SlimFlow (model, ema), or a state dict of EDM's DDPM++ or ADM; see docs/checkpoints.md"
    )


def _own(content: Mapping[str, Any], file: str) -> Contents:
    facts = content["flowlit"]
    check_facts(facts, file)
    averages = [name for name, average in (facts.get("averages") or {}).items() if average]
    parts = {"raw": "network", **({"ema": "ema"} if facts.get("ema_updates") else {})}
    parts |= {name: f"averages.{name}" for name in averages}
    states: dict[str, State] = {kind: {} for kind in parts}
    kinds = {part: kind for kind, part in parts.items()}
    for name, value in content["state_dict"].items():
        part, inside = part_of(name)
        if part in kinds:
            states[kinds[part]][inside] = value
    for state in states.values():
        check_dense(state, file)
    known = facts.get("sha256", {})
    hashes = {kind: known.get(part, "") for kind, part in parts.items() if known}
    facts = {**facts, "step": content.get("global_step", 0)}
    return Contents(OwnLayout(file, facts=facts), states, facts, hashes=hashes)


def _trained(content: Mapping[str, Any], file: str) -> Contents:
    """Read what Rectified Flow and SlimFlow save: a model, its average as a list, optimizer and step."""
    raw, preconditioned = _without_prefix(content["model"], file)
    layout = _layout(raw, file, plain=False, preconditioned=preconditioned)
    if layout is None:
        raise _unknown(file, content["model"])
    average = content.get("ema")
    states = {"raw": raw}
    facts = {"step": content.get("step", 0)}
    shadow = None
    if isinstance(average, Mapping) and _is_state(average):
        states["ema"] = _without_prefix(average, file)[0]
    elif isinstance(average, Mapping) and isinstance(average.get("shadow_params"), (list, tuple)):
        shadow = list(average["shadow_params"])
        check_dense({f"shadow_params.{index}": value for index, value in enumerate(shadow)}, file)
        facts["ema"] = {"decay": average.get("decay"), "updates": average.get("num_updates")}
    return Contents(layout, states, facts, shadow)


def _plain(states: Mapping[str, Mapping[str, Tensor]], path: str | Path) -> Contents:
    """Read state dicts without more. EDM's names are taken for its denoiser, unless a velocity is given."""
    bare = {kind: _without_prefix(state, path) for kind, state in states.items()}
    first, preconditioned = next(iter(bare.values()))
    layout = _layout(first, str(path), plain=True, preconditioned=preconditioned)
    if layout is None:
        raise _unknown(path, next(iter(states.values())))
    return Contents(layout, {kind: state for kind, (state, _) in bare.items()})


def _layout(state: Mapping[str, Tensor], file: str, **form: bool) -> Layout | None:
    matching = [layout(file, **form) for layout in LAYOUTS if layout.matches(state)]
    return matching[0] if matching else None


def _without_prefix(state: Mapping[str, Any], file: str | Path) -> tuple[State, bool]:
    """Return names without the prefixes of DataParallel, torch.compile and EDM's preconditioner (model.).

    The second value is whether the last of these was there.
    """
    preconditioned = False
    while state and all(name.startswith(("module.", "_orig_mod.", "model.")) for name in state):
        preconditioned |= all(name.startswith("model.") for name in state)
        state = {name.partition(".")[2]: value for name, value in state.items()}
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    check_dense(tensors, file)
    return tensors, preconditioned


def _safetensors(path: Path) -> Contents:
    state, facts = unpack(path)
    if facts is None or not isinstance(facts.get("weights"), str):
        return _plain({"only": state}, path)
    check_dense(state, path)
    return Contents(OwnLayout(str(path), facts=facts), {facts["weights"]: state}, facts)
