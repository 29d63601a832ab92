"""The layout of Rectified Flow and SlimFlow: DDPM++ as ``all_modules.{i}``, counted in the order of
construction.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ....errors import FlowlitError
from ...unet import UNet
from ...wrappers.preconditioning import EDM
from .base import Layout
from .rules import Rule, State, has_parameters, same, same_layers

ATTENTION_RESOLUTION = 16
"""Where their networks have attention, which shows the resolution of a network; nothing else does."""


_BLOCK = {
    "norm0": "GroupNorm_0",
    "conv0": "Conv_0",
    "affine": "Dense_0",
    "norm1": "GroupNorm_1",
    "conv1": "Conv_1",
    "skip": "Conv_2",
}


@dataclass(frozen=True)
class SlimFlowLayout(Layout):
    """Unconditional DDPM++ of Rectified Flow and SlimFlow, which predicts a velocity."""

    hint = " (convert: --network YAML), a UNet of its resolution and attention_resolutions"

    @staticmethod
    def matches(state: Mapping[str, Tensor]) -> bool:
        """Return whether the names of a state dict, tensors of any shape, count modules."""
        return any(name.startswith("all_modules.") for name in state)

    def describe(self, state: State) -> dict[str, Any]:
        """Return the spec of the network, from the shapes of its tensors (any shape)."""
        parts: dict[int, dict[str, Tensor]] = defaultdict(dict)
        for name, tensor in state.items():
            numbered = re.fullmatch(r"all_modules\.(\d+)\.(.+)", name)
            if numbered:
                parts[int(numbered[1])][numbered[2]] = tensor
        arguments = _arguments([parts[i] for i in sorted(parts)])
        return {"class_path": "flowlit.networks.UNet", "init_args": arguments}

    def wrap(self, network: Any, state: State) -> nn.Module:
        """Return the network, an unconditional UNet that fits a state dict, tensors of any shape."""
        inside = network.network if isinstance(network, EDM) else network
        if isinstance(inside, UNet) and inside.label is not None:
            raise FlowlitError(
                f"checkpoint {self.file} is of an unconditional network, the one given has classes; "
                "num_classes: 0"
            )
        return self.check(network, UNet, state)

    def rules(self, network: UNet) -> list[Rule]:
        """Return one rule for each tensor of a network, in the order of their ``model.parameters()``.

        Raises:
            FlowlitError: if the network has what the layout cannot hold (labels, another scale of times).
        """
        if network.label is not None or network.time.scale != 999:
            raise FlowlitError(
                "the layout of SlimFlow holds unconditional networks with time_scale 999; this one is another"
            )
        rules: list[Rule] = []
        for place, (kind, ours) in enumerate(_parts(network)):
            theirs = f"all_modules.{place}"
            if kind == "layer":
                rules += same(ours, theirs)
            elif kind == "block":
                rules += same_layers(network.get_submodule(ours), ours, theirs, _BLOCK)
            else:
                rules += _attention(ours, theirs)
        return rules

    def written(self, network: nn.Module) -> State:
        """Return the state dict in their names, tensors of any shape, after noise levels, which are zeros."""
        return {"sigmas": torch.zeros(1000), **super().written(network)}


def _parts(network: UNet) -> Iterator[tuple[str, str]]:
    """Yield kind and name of each part in the order of construction."""
    yield from (("layer", "time.layers.0"), ("layer", "time.layers.2"), ("layer", "stem"))
    for name, stage in network.named_stages():
        yield "block", f"{name}.block"
        if has_parameters(stage.attention):
            yield "attention", f"{name}.attention"
    yield from (("layer", "head_norm"), ("layer", "head"))


def _attention(ours: str, theirs: str) -> list[Rule]:
    """Return the rules of attention: four NINs with W (in, out) and b there, two Linears here.

    The first of ours has q, k and v, the second the output.
    """

    def nins(*numbers: int) -> list[tuple[str, ...]]:
        return [tuple(f"{theirs}.NIN_{i}.{part}" for i in numbers) for part in "Wb"]

    qkv_w, qkv_b = nins(0, 1, 2)
    out_w, out_b = nins(3)
    wb = [
        Rule(f"{ours}.qkv.weight", qkv_w, _stacked, lambda t: [part.T for part in t.chunk(3)]),
        Rule(f"{ours}.qkv.bias", qkv_b, torch.cat, lambda t: list(t.chunk(3))),
        Rule(f"{ours}.out.weight", out_w, _stacked, lambda t: [t.T]),
        Rule(f"{ours}.out.bias", out_b),
    ]
    return [*same(f"{ours}.norm", f"{theirs}.GroupNorm_0"), *wb]


def _stacked(matrices: list[Tensor]) -> Tensor:
    return torch.cat([matrix.transpose(0, 1) for matrix in matrices])


def _arguments(parts: list[dict[str, Tensor]]) -> dict[str, Any]:
    stem = next(part["weight"] for part in parts if "weight" in part and part["weight"].ndim == 4)
    width, channels = stem.shape[:2]
    body = [part for part in parts if "Conv_0.weight" in part or "NIN_0.W" in part]
    blocks = [part for part in body if "NIN_0.W" not in part]
    resampling = [
        part for part in blocks if "Conv_2.weight" in part and _width(part) == part["Conv_2.weight"].shape[1]
    ]
    levels = len(resampling) // 2 + 1
    per_level, left_over = divmod(len(blocks) - 2 - 2 * (levels - 1) - levels, 2 * levels)
    if left_over or per_level < 1:
        raise ValueError(f"{len(blocks)} residual blocks on {levels} levels")
    first = [level * (per_level + 1) for level in range(levels)]  # a level's blocks, and one that halves
    attention = ["NIN_0.W" in part for part in [*body, {}]]
    followed = [after for here, after in pairwise(attention) if not here]
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
