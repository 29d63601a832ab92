"""The layout of Rectified Flow and SlimFlow: DDPM++ as ``all_modules.{i}``, counted in the order of
construction.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ....errors import FlowlitError
from ...unet import UNet
from .base import Rule, has_parameters, same, same_layers

ATTENTION_RESOLUTION = 16
"""Where their networks have attention; the only way to tell the resolution of a network from its weights."""


_BLOCK = {
    "norm0": "GroupNorm_0",
    "conv0": "Conv_0",
    "affine": "Dense_0",
    "norm1": "GroupNorm_1",
    "conv1": "Conv_1",
    "skip": "Conv_2",
}


def is_slimflow(state: Mapping[str, Tensor]) -> bool:
    return any(name.startswith("all_modules.") for name in state)


def rules(network: UNet) -> list[Rule]:
    """One rule for each tensor of the network, in the order of their ``model.parameters()``.

    Raises:
        FlowlitError: if the network has what the layout cannot hold (labels, another scale of times).
    """
    if network.label is not None or network.time.scale != 999:
        raise FlowlitError(
            "the layout of SlimFlow holds unconditional networks with time_scale 999; this one is another"
        )
    found: list[Rule] = []
    for place, (kind, ours) in enumerate(_parts(network)):
        theirs = f"all_modules.{place}"
        if kind == "layer":
            found += same(ours, theirs)
        elif kind == "block":
            found += same_layers(network.get_submodule(ours), ours, theirs, _BLOCK)
        else:
            found += _attention(ours, theirs)
    return found


def _parts(network: UNet) -> Iterator[tuple[str, str]]:
    """Kind and name of each part in the order of construction."""
    yield from (("layer", "time.layers.0"), ("layer", "time.layers.2"), ("layer", "stem"))
    for name, stage in network.named_stages():
        yield "block", f"{name}.block"
        if has_parameters(stage.attention):
            yield "attention", f"{name}.attention"
    yield from (("layer", "head_norm"), ("layer", "head"))


def _attention(ours: str, theirs: str) -> list[Rule]:
    """Their four NINs hold W (in, out) and b; ours are one Linear for q, k and v, and one for the output."""

    def nins(*numbers: int) -> list[tuple[str, ...]]:
        return [tuple(f"{theirs}.NIN_{i}.{part}" for i in numbers) for part in "Wb"]

    (qkv_w, qkv_b), (out_w, out_b) = nins(0, 1, 2), nins(3)
    wb = [
        Rule(f"{ours}.qkv.weight", qkv_w, _stacked, lambda t: [part.T for part in t.chunk(3)]),
        Rule(f"{ours}.qkv.bias", qkv_b, torch.cat, lambda t: list(t.chunk(3))),
        Rule(f"{ours}.out.weight", out_w, _stacked, lambda t: [t.T]),
        Rule(f"{ours}.out.bias", out_b),
    ]
    return [*same(f"{ours}.norm", f"{theirs}.GroupNorm_0"), *wb]


def _stacked(matrices: list[Tensor]) -> Tensor:
    return torch.cat([matrix.transpose(0, 1) for matrix in matrices])


def infer(state: Mapping[str, Tensor], file: str) -> dict[str, Any]:
    """Tell how a network is built from the shapes of its weights.

    Raises:
        FlowlitError: if that cannot be told, saying what to give.
    """
    parts: dict[int, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in state.items():
        if found := re.fullmatch(r"all_modules\.(\d+)\.(.+)", name):
            parts[int(found[1])][found[2]] = tensor
    try:
        return {
            "class_path": "flowlit.networks.UNet",
            "init_args": _arguments([parts[i] for i in sorted(parts)]),
        }
    except (KeyError, IndexError, ValueError, ZeroDivisionError, StopIteration) as error:
        raise FlowlitError(
            f"{file}: its architecture cannot be told from its weights ({type(error).__name__}: {error}); "
            "give it as network (convert: --network YAML), a UNet of its resolution and attention_resolutions"
        ) from error


def _arguments(parts: list[dict[str, Tensor]]) -> dict[str, Any]:
    stem = next(part["weight"] for part in parts if "weight" in part and part["weight"].ndim == 4)
    width, channels = stem.shape[:2]
    body = [
        ("attention" if "NIN_0.W" in part else "block", part)
        for part in parts
        if "Conv_0.weight" in part or "NIN_0.W" in part
    ]
    blocks = [part for kind, part in body if kind == "block"]
    resampling = [
        i
        for i, part in enumerate(blocks)
        if "Conv_2.weight" in part and _width(part) == part["Conv_2.weight"].shape[1]
    ]
    levels = len(resampling) // 2 + 1
    per_level, rest = divmod(len(blocks) - 2 - 2 * (levels - 1) - levels, 2 * levels)
    if rest or per_level < 1:
        raise ValueError(f"{len(blocks)} residual blocks on {levels} levels")
    first = [level * (per_level + 1) for level in range(levels)]  # a level's blocks, and one that halves
    followed = [
        following == "attention"
        for (kind, _), (following, _) in zip(body, [*body[1:], ("end", {})], strict=True)
        if kind == "block"
    ]
    attends = [level for level in range(levels) if followed[first[level]]]
    if len(attends) != 1:
        raise ValueError(
            f"attention on levels {attends}, expected one, which is that of {ATTENTION_RESOLUTION} pixels"
        )
    return {
        "resolution": ATTENTION_RESOLUTION << attends[0],
        "in_channels": channels,
        "width": width,
        "multipliers": [_width(blocks[start]) // width for start in first],
        "blocks": per_level,
        "attention_resolutions": [ATTENTION_RESOLUTION],
    }


def _width(block: dict[str, Tensor]) -> int:
    return block["Conv_0.weight"].shape[0]
