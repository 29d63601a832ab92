"""Layers of a network with rounded weights and activations, in PyTorch's float32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from ...errors import FlowlitError
from .integers import FLOAT, NOTHING, Range, rounded, rounded_weight

Layers = dict[str, nn.Conv2d | nn.Linear]
"""Layers that can be rounded, by name."""


@dataclass
class Ranges:
    """Values that go into a layer and come out of it."""

    inputs: Range = NOTHING
    outputs: Range = NOTHING


def layers_of(network: nn.Module) -> Layers:
    """Return the convolutions and linear layers of a network by name, those with the same weights once.

    Raises:
        FlowlitError: if it has none.
    """
    layers: Layers = {}
    seen: set[int] = set()
    for name, module in network.named_modules():
        plain = isinstance(module, (nn.Conv2d, nn.Linear)) and not is_parametrized(module)
        if plain and id(module.weight) not in seen:
            seen.add(id(module.weight))
            layers[name] = module  # type: ignore[assignment]
    if not layers:
        raise FlowlitError(
            f"{type(network).__name__} has no convolution or linear layer whose weights could be rounded"
        )
    return layers


def rounds_output(layer: nn.Module, bits: int) -> bool:
    """Return whether what comes out of a layer is rounded: where programs then compute with integers."""
    return isinstance(layer, nn.Conv2d) and bits == 8


@contextmanager
def measuring(layers: Layers) -> Iterator[dict[str, Ranges]]:
    """Yield the ranges of all layers, which grow with each call of their network."""
    ranges = {name: Ranges() for name in layers}
    with ExitStack() as stack:
        for name, layer in layers.items():

            def look(module: nn.Module, args: Any, output: Tensor, place: Ranges = ranges[name]) -> None:
                place.inputs = place.inputs.joined(args[0])
                place.outputs = place.outputs.joined(output)

            stack.enter_context(_removed(layer.register_forward_hook(look)))
        yield ranges


@contextmanager
def rounding(layers: Layers, bits: Mapping[str, int], ranges: Mapping[str, Ranges]) -> Iterator[None]:
    """Round layers while it lasts: weights to their bits, and what goes in and comes out to 8 bits.

    Args:
        layers: of a network.
        bits: of the weights of some layers, by name; 32 leaves a layer as it is.
        ranges: of their activations, by name; empty leaves activations as they are.
    """
    with ExitStack() as stack, torch.no_grad():
        for name, width in bits.items():
            if width == FLOAT:
                continue
            layer = layers[name]
            stack.enter_context(_weight(layer, rounded_weight(layer.weight, width)))
            if name in ranges:
                ends = rounds_output(layer, width)
                stack.enter_context(rounding_activations(layer, ranges[name], ends))
        yield


@contextmanager
def rounding_activations(layer: nn.Module, ranges: Ranges, ends: bool) -> Iterator[None]:
    """Round to 8 bits what goes into a layer, and what comes out of it, where these have a range.

    Args:
        layer: of a network.
        ranges: of its activations.
        ends: whether what comes out is rounded at all.
    """
    with ExitStack() as stack:
        if ranges.inputs.has_values():
            stack.enter_context(_removed(layer.register_forward_pre_hook(_rounder(ranges.inputs))))
        if ends and ranges.outputs.has_values():
            stack.enter_context(_removed(layer.register_forward_hook(_end_rounder(ranges.outputs))))
        yield


def _rounder(values: Range) -> Any:
    return lambda module, args: (rounded(args[0], values), *args[1:])


def _end_rounder(values: Range) -> Any:
    return lambda module, args, output: rounded(output, values)


@contextmanager
def _removed(hook: Any) -> Iterator[None]:
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _weight(layer: nn.Conv2d | nn.Linear, weight: Tensor) -> Iterator[None]:
    before = layer.weight.data
    layer.weight.data = weight
    try:
        yield
    finally:
        layer.weight.data = before
