"""The layout of EDM: ``map_…``, ``enc.{R}x{R}_…`` and ``dec.{R}x{R}_…``, of SongUNet as DDPM++ and of ADM."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ....errors import FlowlitError
from ...adm import ADM
from ...layers import time_scale_of
from ...unet import UNet
from ...unet_base import Stage, UNetBase
from ...wrappers.preconditioning import EDM
from .base import Layout
from .rules import Rule, State, Translated, same, same_layers


@dataclass(frozen=True)
class EDMLayout(Layout):
    """State dicts of EDM's denoisers, and SlimFlow's ADM, a velocity with the same names.

    A trainer's dict around names without ``model.`` is SlimFlow's. A plain state dict does not say which it
    is: a denoiser, unless the network that is given for it is a velocity.
    """

    @staticmethod
    def matches(state: Mapping[str, Tensor]) -> bool:
        """Return whether a state dict, tensors of any shape, has SongUNet's or DhariwalUNet's names."""
        return "map_layer0.weight" in state and any(name.startswith("enc.") for name in state)

    @property
    def velocity(self) -> bool:
        return not self.plain and not self.preconditioned

    def settled(self, network: nn.Module | None) -> Layout:
        """Return the layout of a velocity where a velocity is given for a plain state dict."""
        presumed = self.plain and not self.preconditioned
        return replace(self, plain=False) if presumed and time_scale_of(network) == 999 else self

    def refuse(self, state: State) -> None:
        """Refuse NCSN++, and networks that resample in another way than ours, by tensors of any shape.

        Raises:
            FlowlitError: naming the first tensor that shows it.
        """
        other = [name for name in state if re.search(r"_aux_(down|skip|residual|up)|map_noise", name)]
        if other:
            raise FlowlitError(
                f"checkpoint {self.file} holds EDM's NCSN++ ({other[0]}), which flowlit does not have; it "
                "reads DDPM++ and ADM"
            )
        for name, tensor in state.items():
            if name.endswith("resample_filter") and (
                tensor.numel() != 4 or (tensor.float() - 0.25).abs().max() > 1e-6
            ):
                raise FlowlitError(
                    f"checkpoint {self.file}: {name} is not a mean over 2×2; flowlit's networks resample "
                    "with nothing else"
                )

    def is_unused(self, name: str) -> bool:
        """Return whether a tensor is a buffer, or reads augmentation inputs, which are zero when sampling."""
        return super().is_unused(name) or name.startswith("map_augment.")

    def describe(self, state: State) -> dict[str, Any]:
        """Return the spec from names and shapes (any shape); a denoiser's has ``EDM`` around it."""
        adm = is_adm(state)
        network = {
            "class_path": f"flowlit.networks.{'ADM' if adm else 'UNet'}",
            "init_args": _arguments(state, adm, self.velocity),
        }
        if self.velocity:
            return network
        return {"class_path": "flowlit.networks.EDM", "init_args": {"network": network}}

    def wrap(self, network: Any, state: State) -> nn.Module:
        """Return a velocity as it is, and what a denoiser's network is given as inside ``EDM``.

        The names of the state dict, tensors of any shape, say which of the two classes of networks it is of.
        """
        inside = self.check(network, ADM if is_adm(state) else UNet, state)
        if isinstance(inside, UNet) and inside.label is not None and not inside.early_label:
            raise FlowlitError(f"checkpoint {self.file} needs a UNet with early_label: true")
        return network if self.velocity or isinstance(network, EDM) else EDM(network)

    def translate(self, network: nn.Module, state: State) -> tuple[Translated, list[str]]:
        """Return a state dict, tensors of any shape, in the names of a network or of ``EDM`` around it."""
        if not isinstance(network, EDM):
            return super().translate(network, state)
        translated, unused = super().translate(network.network, state)
        named = {f"network.{name}": tensor for name, tensor in translated.state.items()}
        return translated._replace(state=named), unused

    def rules(self, network: UNetBase) -> list[Rule]:
        """Return one rule for each tensor of a network, in the order of their ``model.parameters()``."""
        adm = isinstance(network, ADM)
        times = _times(swapped=adm)
        label = [] if network.label is None else [_label(network)]
        rules = [*times, *label] if adm else [*label, *times]
        for name, ours in _places(network):
            module = network.get_submodule(ours)
            rules += _stage(ours, name, module) if isinstance(module, Stage) else same(ours, name)
        return rules

    def written(self, network: nn.Module) -> State:
        """Return the state dict in their names, tensors of any shape, with the 2×2 means of resampling."""
        filled: State = {}
        for name, tensor in super().written(network).items():
            filled[name] = tensor
            for layer, place in (("conv0", "conv0"), ("conv1", "skip")):
                resampling = re.fullmatch(rf"(.+_(?:down|up))\.{layer}\.bias", name)
                if resampling:
                    filter_name = f"{resampling[1]}.{place}.resample_filter"
                    filled[filter_name] = torch.full((1, 1, 2, 2), 0.25)
        return filled


def is_adm(state: State) -> bool:
    """Return whether a state dict, tensors of any shape, is of DhariwalUNet, and not of SongUNet."""
    return "out_conv.weight" in state


def _times(swapped: bool) -> list[Rule]:
    """Return the rules of the time embedding; ADM's begins with cosines, ours with sines."""

    def swap(weight: Tensor) -> Tensor:
        return weight.roll(weight.shape[1] // 2, 1) if swapped else weight

    first = Rule("time.layers.0.weight", ("map_layer0.weight",), lambda ts: swap(ts[0]), lambda t: [swap(t)])
    return [first, *same("time.layers.0", "map_layer0", "bias"), *same("time.layers.2", "map_layer1")]


def _label(network: UNetBase) -> Rule:
    """Return the rule of the labels: a Linear on one-hot labels there, a table here.

    SongUNet's is multiplied by √classes, and has a bias.
    """
    assert network.label is not None
    adm = isinstance(network, ADM)
    dropout = bool(network.label.dropout)
    classes = network.label.num_classes

    def read(tensors: list[Tensor]) -> Tensor:
        weight, bias = (tensors[0], 0) if adm else (tensors[0] * tensors[0].shape[1] ** 0.5, tensors[1])
        return torch.cat([weight.T, weight.new_zeros((int(dropout), len(weight)))]) + bias

    def write(weight: Tensor) -> list[Tensor]:
        if dropout:
            raise FlowlitError(
                "the layout of EDM has no vector for 'no label', which this network has (label_dropout)"
            )
        return [weight[:classes].T]

    if adm:
        return Rule("label.table.weight", ("map_label.weight",), read, write)
    return Rule("label.table.weight", ("map_label.weight", "map_label.bias"), read)


def _places(network: UNetBase) -> Iterator[tuple[str, str]]:
    """Yield their name and ours of everything but the embedding, in their order."""
    size = network.shape[1]
    block = 0
    yield f"enc.{size}x{size}_conv", "stem"
    for ours, stage in network.named_stages():
        part = ours.split(".")[0]
        if stage.resample:
            size = size // 2 if stage.resample < 0 else size * 2
            yield f"{part[:3]}.{size}x{size}_{'down' if stage.resample < 0 else 'up'}", ours
            block = 0
        elif part == "bottleneck":
            yield f"dec.{size}x{size}_in{ours[-1]}", ours
            block = 0
        else:
            yield f"{part[:3]}.{size}x{size}_block{block}", ours
            block += 1
    head = "out" if isinstance(network, ADM) else f"dec.{size}x{size}_aux"
    yield from ((f"{head}_norm", "head_norm"), (f"{head}_conv", "head"))


def _stage(ours: str, theirs: str, stage: Stage) -> list[Rule]:
    layers = {layer: layer for layer in ("norm0", "conv0", "affine", "norm1", "conv1", "skip")}
    rules = same_layers(stage.block, f"{ours}.block", theirs, layers)
    heads: Any = getattr(stage.attention, "heads", 0)
    return rules + (_attention(f"{ours}.attention", theirs, heads) if heads else [])


def _attention(ours: str, theirs: str, heads: int) -> list[Rule]:
    """Return the rules of attention: 1×1 convolutions there, Linears here.

    Their q, k and v take turns channel by channel.
    """

    def read(tensors: list[Tensor]) -> Tensor:
        rows = tensors[0].squeeze((-1, -2)) if tensors[0].ndim == 4 else tensors[0]
        return rearrange(rows, "(h c three) ... -> (three h c) ...", h=heads, three=3)

    def write(tensor: Tensor) -> list[Tensor]:
        theirs = rearrange(tensor, "(three h c) ... -> (h c three) ...", h=heads, three=3)
        return [theirs[..., None, None] if theirs.ndim == 2 else theirs]

    def convolution(tensor: Tensor) -> list[Tensor]:
        return [tensor[..., None, None]]

    out = Rule(f"{ours}.out.weight", (f"{theirs}.proj.weight",), lambda ts: ts[0].flatten(1), convolution)
    qkv = [Rule(f"{ours}.qkv.{part}", (f"{theirs}.qkv.{part}",), read, write) for part in ("weight", "bias")]
    bias = same(f"{ours}.out", f"{theirs}.proj", "bias")
    return [*same(f"{ours}.norm", f"{theirs}.norm2"), *qkv, out, *bias]


def _arguments(state: State, adm: bool, velocity: bool) -> dict[str, Any]:
    sizes = sorted({int(size) for size in re.findall(r"^enc\.(\d+)x", "\n".join(state), re.MULTILINE)})[::-1]
    first = rf"^enc\.{sizes[0]}x{sizes[0]}_(block\d+)\."
    blocks = len(set(re.findall(first, "\n".join(state), re.MULTILINE)))
    width = state["map_layer0.weight"].shape[1]
    label = state.get("map_label.weight")
    return {
        "resolution": sizes[0],
        "in_channels": state[f"enc.{sizes[0]}x{sizes[0]}_conv.weight"].shape[1],
        "width": width,
        "multipliers": [state[f"enc.{size}x{size}_block0.conv0.weight"].shape[0] // width for size in sizes],
        "blocks": blocks,
        "attention_resolutions": [size for size in sizes if f"enc.{size}x{size}_block0.qkv.weight" in state],
        "num_classes": 0 if label is None else label.shape[1],
        "dropout": 0.13 if velocity or not adm else 0.1,  # of its paper; weights do not show it
        "time_scale": 999.0 if velocity else 1.0,
        **({} if adm else {"early_label": True}),
    }
