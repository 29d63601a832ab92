"""The layout of EDM: ``map_…``, ``enc.{R}x{R}_…`` and ``dec.{R}x{R}_…``, of SongUNet as DDPM++ and of ADM."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ....errors import FlowlitError
from ...adm import ADM
from ...unet_base import Stage, UNetBase
from .base import Rule, same, same_layers


def is_edm(state: Mapping[str, Tensor]) -> bool:
    return "map_layer0.weight" in state and any(name.startswith("enc.") for name in state)


def is_adm(state: Mapping[str, Tensor]) -> bool:
    return "out_conv.weight" in state


def is_buffer(name: str) -> bool:
    """Whether a tensor is no parameter: noise levels that flows do not use, and filters of resampling."""
    return name == "sigmas" or name.endswith("resample_filter")


def is_unused(name: str) -> bool:
    """Whether a tensor says nothing about a velocity: buffers, and augmentation inputs, which are zero when
    sampling.
    """
    return is_buffer(name) or name.startswith("map_augment.")


def check_kind(state: Mapping[str, Tensor], file: str) -> None:
    """Refuse NCSN++, and networks that resample in another way than ours.

    Raises:
        FlowlitError: naming the first tensor that tells.
    """
    if strange := [name for name in state if re.search(r"_aux_(down|skip|residual|up)|map_noise", name)]:
        raise FlowlitError(
            f"{file} holds EDM's NCSN++ ({strange[0]}), which flowlit does not have; it reads DDPM++ and ADM"
        )
    for name, tensor in state.items():
        if name.endswith("resample_filter") and (
            tensor.numel() != 4 or (tensor.float() - 0.25).abs().max() > 1e-6
        ):
            raise FlowlitError(
                f"{file}: {name} is not a mean over 2×2; flowlit's networks resample with nothing else"
            )


def rules(network: UNetBase) -> list[Rule]:
    """One rule for each tensor of the network, in the order of their ``model.parameters()``."""
    adm = isinstance(network, ADM)
    found = [*_times(swapped=adm)]
    label = [] if network.label is None else [_label(network)]
    found = [*found, *label] if adm else [*label, *found]
    for name, ours in _places(network):
        module = network.get_submodule(ours)
        found += _stage(ours, name, module) if isinstance(module, Stage) else same(ours, name)
    return found


def _times(swapped: bool) -> list[Rule]:
    """ADM's embedding begins with cosines, ours with sines."""

    def swap(weight: Tensor) -> Tensor:
        return weight.roll(weight.shape[1] // 2, 1) if swapped else weight

    first = Rule("time.layers.0.weight", ("map_layer0.weight",), lambda ts: swap(ts[0]), lambda t: [swap(t)])
    return [first, *same("time.layers.0", "map_layer0", "bias"), *same("time.layers.2", "map_layer1")]


def _label(network: UNetBase) -> Rule:
    """Theirs is a Linear on one-hot labels, times √classes (and with a bias) in SongUNet; ours a table."""
    assert network.label is not None
    dropout = bool(network.label.dropout)
    classes = network.label.num_classes

    def table(weight: Tensor, bias: Tensor) -> Tensor:
        return torch.cat([weight.T, weight.new_zeros((int(dropout), len(weight)))]) + bias

    def read_song(tensors: list[Tensor]) -> Tensor:
        return table(tensors[0] * tensors[0].shape[1] ** 0.5, tensors[1])

    def read_adm(tensors: list[Tensor]) -> Tensor:
        return table(tensors[0], torch.zeros(()))

    def write_adm(weight: Tensor) -> list[Tensor]:
        if dropout:
            raise FlowlitError(
                "the layout of EDM has no vector for 'no label', which this network has (label_dropout)"
            )
        return [weight[:classes].T]

    if isinstance(network, ADM):
        return Rule("label.table.weight", ("map_label.weight",), read_adm, write_adm)
    return Rule("label.table.weight", ("map_label.weight", "map_label.bias"), read_song)


def _places(network: UNetBase) -> Iterator[tuple[str, str]]:
    """Their name and ours of everything but the embedding, in their order."""
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
    head = (
        ("out_norm", "out_conv")
        if isinstance(network, ADM)
        else (f"dec.{size}x{size}_aux_norm", f"dec.{size}x{size}_aux_conv")
    )
    yield from zip(head, ("head_norm", "head"), strict=True)


def _stage(ours: str, theirs: str, stage: Stage) -> list[Rule]:
    layers = {layer: layer for layer in ("norm0", "conv0", "affine", "norm1", "conv1", "skip")}
    found = same_layers(stage.block, f"{ours}.block", theirs, layers)
    heads: Any = getattr(stage.attention, "heads", 0)
    return found + (_attention(f"{ours}.attention", theirs, heads) if heads else [])


def _attention(ours: str, theirs: str, heads: int) -> list[Rule]:
    """Their 1×1 convolutions are our Linears; their q, k and v take turns channel by channel."""

    def read(tensors: list[Tensor]) -> Tensor:
        return rearrange(
            tensors[0].squeeze((-1, -2)) if tensors[0].ndim == 4 else tensors[0],
            "(h c three) ... -> (three h c) ...",
            h=heads,
            three=3,
        )

    def write(tensor: Tensor) -> list[Tensor]:
        theirs = rearrange(tensor, "(three h c) ... -> (h c three) ...", h=heads, three=3)
        return [theirs[..., None, None] if theirs.ndim == 2 else theirs]

    out = Rule(
        f"{ours}.out.weight",
        (f"{theirs}.proj.weight",),
        lambda ts: ts[0].flatten(1),
        lambda t: [t[..., None, None]],
    )
    qkv = [Rule(f"{ours}.qkv.{part}", (f"{theirs}.qkv.{part}",), read, write) for part in ("weight", "bias")]
    return [
        *same(f"{ours}.norm", f"{theirs}.norm2"),
        *qkv,
        out,
        *same(f"{ours}.out", f"{theirs}.proj", "bias"),
    ]


def with_filters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add the filters that their resampling layers carry: a mean over 2×2."""
    filled: dict[str, Tensor] = {}
    for name, tensor in state.items():
        filled[name] = tensor
        if found := re.fullmatch(r"(.+_(?:down|up))\.conv0\.bias", name):
            filled[f"{found[1]}.conv0.resample_filter"] = torch.full((1, 1, 2, 2), 0.25)
        if found := re.fullmatch(r"(.+_(?:down|up))\.conv1\.bias", name):
            filled[f"{found[1]}.skip.resample_filter"] = torch.full((1, 1, 2, 2), 0.25)
    return filled


def infer(state: Mapping[str, Tensor], velocity: bool, file: str) -> dict[str, Any]:
    """Tell how a network is built from names and shapes; a denoiser's is surrounded by ``EDM``.

    Raises:
        FlowlitError: for what cannot be told.
    """
    try:
        adm = is_adm(state)
        network = {
            "class_path": f"flowlit.networks.{'ADM' if adm else 'UNet'}",
            "init_args": _arguments(state, adm, velocity),
        }
    except (KeyError, ValueError, ZeroDivisionError, StopIteration) as error:
        raise FlowlitError(
            f"{file}: its architecture cannot be told from its weights ({type(error).__name__}: {error}); "
            "give it as network"
        ) from error
    return network if velocity else {"class_path": "flowlit.networks.EDM", "init_args": {"network": network}}


def _arguments(state: Mapping[str, Tensor], adm: bool, velocity: bool) -> dict[str, Any]:
    sizes = sorted(
        {int(found[1]) for name in state if (found := re.match(r"enc\.(\d+)x", name))}, reverse=True
    )
    blocks = len(
        {found[1] for name in state if (found := re.match(rf"enc\.{sizes[0]}x{sizes[0]}_(block\d+)\.", name))}
    )
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
        "dropout": 0.13 if velocity or not adm else 0.1,  # as its papers train it; weights do not tell
        "time_scale": 999.0 if velocity else 1.0,
        **({} if adm else {"early_label": True}),
    }
