"""The layout of ResShift's published networks: ``input_blocks``, ``middle_block``, ``output_blocks``, with
attention in windows. Yue et al. 2023 (2307.12348).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ....errors import FlowlitError
from ...swin import Swin, apart, relative_places
from ...swin_unet import SwinUNet
from ...unet_base import Stage
from ...wrappers.residual import ResShiftVelocity
from ..spec import summarise
from .base import Layout
from .rules import Rule, State, Translated, same, same_layers

SWIN = "patch_embed.proj.weight"
TABLE = "attn.relative_position_bias_table"

_BLOCK = {
    "norm0": "in_layers.0",
    "conv0": "in_layers.2",
    "affine": "emb_layers.1",
    "norm1": "out_layers.0",
    "conv1": "out_layers.3",
    "skip": "skip_connection",
}
_ATTENTION = {
    "norm0": "norm1",
    "attention.qkv": "attn.qkv",
    "attention.out": "attn.proj",
    "norm1": "norm2",
    "wide": "mlp.fc1",
    "narrow": "mlp.fc2",
}


@dataclass(frozen=True)
class ResShiftLayout(Layout):
    """State dicts of ``UNetModelSwin``, a network that predicts x from the state of a chain.

    The chain, its steps and κ, is not in the file: the network has to be given, ``ResShiftVelocity`` around a
    ``SwinUNet``.
    """

    hint = (
        " (convert: --network experiments/super_resolution/layers/published_resshift_15.yaml for v1 and v2, "
        "published_resshift_4.yaml for v3)"
    )

    @staticmethod
    def matches(state: Mapping[str, Tensor]) -> bool:
        """Return whether a state dict, tensors of any shape, has the names of ResShift's U-Net."""
        return "input_blocks.0.0.weight" in state and any(name.endswith(SWIN) for name in state)

    def describe(self, state: State) -> dict[str, Any]:
        """Raise an error: names and shapes of tensors (any shape) do not show a chain."""
        raise ValueError("steps and κ of ResShift's chain are in no tensor")

    def content(self, state: State) -> str:
        """Return a sentence on the network of a state dict, tensors of any shape; '' if it is unknown."""
        try:
            description = {"class_path": "flowlit.networks.SwinUNet", "init_args": _arguments(state)}
        except (KeyError, IndexError, ValueError, ZeroDivisionError, StopIteration):
            return ""
        return f" It holds {summarise(description)}: give that inside ResShiftVelocity as network"

    def refuse(self, state: State) -> None:
        """Refuse relatives by names and shapes (any shape): those for faces and inpainting.

        Raises:
            FlowlitError: naming the tensor that shows it.
        """
        other = next((name for name in state if name.startswith("feature_extractor.")), None)
        ends = [state[name] for name in ("input_blocks.0.0.weight", "out.2.weight") if name in state]
        if other is None and [end.ndim for end in ends] == [4, 4]:
            more = ends[0].shape[1] - ends[1].shape[0]
            other = None if more == 3 else f"input_blocks.0.0.weight, with {more} channels beside those of x"
        if other is not None:
            raise FlowlitError(
                f"checkpoint {self.file} holds ResShift's network of another task ({other}), as for faces or "
                "inpainting; flowlit reads those of super-resolution, which take 3 channels beside x"
            )
        for name, tensor in state.items():
            _check_buffer(self.file, name, tensor)

    def is_unused(self, name: str) -> bool:
        """Return whether the tensor of a name is computed anew: places and masks of windows."""
        return name.endswith((".relative_position_index", ".attn_mask"))

    def wrap(self, network: Any, state: State) -> nn.Module:
        """Return the network, a ``ResShiftVelocity`` of a ``SwinUNet``, for a state dict (any shape)."""
        inside = network.network if isinstance(network, ResShiftVelocity) else None
        if not isinstance(inside, SwinUNet):
            raise FlowlitError(
                f"checkpoint {self.file} cannot be read into {type(network).__name__}; expected "
                f"flowlit.networks.ResShiftVelocity around SwinUNet.{self.content(state)}"
            )
        return network

    def translate(self, network: Any, state: State) -> tuple[Translated, list[str]]:
        """Return a state dict, tensors of any shape, in the names of ``ResShiftVelocity``."""
        translated, unused = super().translate(network.network, state)
        named = {f"network.{name}": tensor for name, tensor in translated.state.items()}
        return translated._replace(state=named), unused

    def rules(self, network: SwinUNet) -> list[Rule]:
        """Return one rule for each tensor of a network, in the order of their ``model.parameters()``."""

        def swapped(weight: Tensor) -> Tensor:
            return weight.roll(weight.shape[1] // 2, 1)

        first = "time.layers.0.weight", ("time_embed.0.weight",)
        rules = [Rule(*first, lambda ts: swapped(ts[0]), lambda t: [swapped(t)])]
        rules += same("time.layers.0", "time_embed.0", "bias") + same("time.layers.2", "time_embed.2")
        rules += same("stem", "input_blocks.0.0")
        for ours, theirs, stage in _places(network):
            rules += _stage(ours, theirs, stage)
        return [*rules, *same("head_norm", "out.0"), *same("head", "out.2")]


def _places(network: SwinUNet) -> Iterator[tuple[str, list[str], Stage]]:
    """Yield our name of each stage, their names of its block and attention, and itself, in their order."""
    count = -1
    last = 0
    for ours, stage in network.named_stages():
        part, _, place = ours.partition(".")
        attends = isinstance(stage.attention, Swin)
        if part == "encoder":
            names = [f"input_blocks.{int(place) + 1}.{i}" for i in (0, 1)]
        elif part == "bottleneck":
            names = ["middle_block.0", "middle_block.1"] if place == "0" else ["middle_block.2"]
        elif stage.resample:  # a part of the block before it
            names = [f"output_blocks.{count}.{last + 1}"]
        else:
            count += 1
            names = [f"output_blocks.{count}.{i}" for i in (0, 1)]
        last = int(attends)
        yield ours, names, stage


def _stage(ours: str, theirs: list[str], stage: Stage) -> list[Rule]:
    if stage.resample:
        return same(f"{ours}.block.conv", f"{theirs[0]}.{'op' if stage.resample < 0 else 'conv'}")
    rules = same_layers(stage.block, f"{ours}.block", theirs[0], _BLOCK)
    if isinstance(stage.attention, Swin):
        rules += _swin(f"{ours}.attention", theirs[1], stage.attention)
    return rules


def _swin(ours: str, theirs: str, attention: Any) -> list[Rule]:
    rules = same(f"{ours}.embed", f"{theirs}.patch_embed.proj")
    for place, block in enumerate(attention.blocks):
        names = f"{ours}.blocks.{place}", f"{theirs}.blocks.{place}"
        rules += [Rule(f"{names[0]}.attention.bias.weight", (f"{names[1]}.{TABLE}",))]
        rules += same_layers(block, *names, _ATTENTION)
    return rules + same(f"{ours}.unembed", f"{theirs}.patch_unembed.proj")


def _check_buffer(file: str, name: str, tensor: Tensor) -> None:
    """Refuse places and masks, tensors of any shape, that are not those that are computed here."""
    if not name.endswith((".relative_position_index", ".attn_mask")):
        return
    window = math.isqrt(tensor.shape[-1]) if tensor.ndim else 0
    shape = (window**2, window**2)
    expected = None
    if window > 1 and name.endswith("_index") and tensor.shape == shape:
        expected = relative_places(window)
    elif window > 1 and name.endswith("_mask") and tensor.shape[1:] == shape:
        side = window * math.isqrt(len(tensor))
        expected = apart((side, side), window, window // 2, torch.device("cpu"))
    if expected is None or tensor.shape != expected.shape or not torch.equal(tensor.to(expected), expected):
        raise FlowlitError(
            f"checkpoint {file}: {name} is not what ResShift's code of 2023 and 2024 computes, and flowlit, "
            "too; its weights are made for other windows"
        )


def _arguments(state: State) -> dict[str, Any]:
    """Return the arguments of the ``SwinUNet`` of a state dict, tensors of any shape."""
    width = state["time_embed.0.weight"].shape[1]
    places = sorted({int(place) for place in re.findall(r"^input_blocks\.(\d+)\.", "\n".join(state), re.M)})
    halving = [place for place in places if f"input_blocks.{place}.0.op.weight" in state]
    firsts = [1, *(place + 1 for place in halving)]
    blocks = (halving[0] if halving else max(places) + 1) - 1
    table = next(tensor for name, tensor in state.items() if name.endswith(TABLE))
    swin = next(name.removesuffix(SWIN) for name in state if name.endswith(SWIN))
    swin_width = state[f"{swin}{SWIN}"].shape[0]
    masks = [tensor for name, tensor in state.items() if name.endswith(".attn_mask")]
    window = (round(len(table) ** 0.5) + 1) // 2
    resolution = window * max(round(len(mask) ** 0.5) for mask in masks) if masks else 64
    attends = [level for level, first in enumerate(firsts) if f"input_blocks.{first}.1.{SWIN}" in state]
    return {
        "resolution": resolution,
        "in_channels": state["out.2.weight"].shape[0],
        "width": width,
        "multipliers": [
            state[f"input_blocks.{first}.0.out_layers.3.weight"].shape[0] // width for first in firsts
        ],
        "blocks": blocks,
        "attention_resolutions": [resolution >> level for level in attends],
        "window": window,
        "swin_width": swin_width,
        "swin_depth": sum(name.startswith(swin) and name.endswith(TABLE) for name in state),
        "head": swin_width // table.shape[1],
        "mlp_ratio": state[f"{swin}blocks.0.mlp.fc1.weight"].shape[0] // swin_width,
    }
