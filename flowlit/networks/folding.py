"""The time path of a network, folded into biases: a generator of one step is called at one time only.

At one t (and r) the embedding of times is a constant, and so is what each block makes of it: a shift becomes
part of the bias before it, a scale and a shift part of the norm before them. With labels there is a constant
for each class, so that a table of classes takes the place of a linear layer, or, where there are too many
classes for that, of the embeddings alone. It is exact but for rounding.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .._support.modes import evaluating
from .adm import ADMBlock
from .base import ConditionalNetwork
from .layers import ResBlock

Times = tuple[Tensor, Tensor | None]
"""t and the second time r of one call, both (); None where no r was given."""


class Calls:
    """The times at which each network inside a velocity is called."""

    def __init__(self) -> None:
        self.times: dict[ConditionalNetwork, list[Times]] = {}

    def record(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record a call, as a hook before ``forward``; the rows of a batch have the same times."""
        bound = inspect.signature(module.forward).bind(*args, **kwargs).arguments
        r = bound.get("cond", {}).get("r")
        times = (bound["t"][0].detach(), None if r is None else r[0].detach())
        assert isinstance(module, ConditionalNetwork)
        before = self.times.setdefault(module, [])
        if not any(_equal(times, other) for other in before):
            before.append(times)


def _equal(a: Times, b: Times) -> bool:
    return all(
        x is y if x is None or y is None else x.is_meta or bool(x == y) for x, y in zip(a, b, strict=True)
    )


@torch.no_grad()
def fold_times(velocity: nn.Module, call: Callable[[], object]) -> list[ConditionalNetwork]:
    """Fold the time paths of the networks inside a velocity that a call evaluates at one time; return them.

    Args:
        velocity: whose networks are changed in place.
        call: of the velocity, at the one time at which it will ever be called.
    """
    calls = Calls()
    inside = [module for module in velocity.modules() if isinstance(module, ConditionalNetwork)]
    hooks = [module.register_forward_pre_hook(calls.record, with_kwargs=True) for module in inside]
    try:
        with evaluating(velocity):
            call()
    finally:
        for hook in hooks:
            hook.remove()
    once = {network: times[0] for network, times in calls.times.items() if len(times) == 1}
    single = {net: times for net, times in once.items() if net.time is not None and _has_one(net, times)}
    for network, (t, r) in single.items():
        with evaluating(network):
            _fold(network, t, r)
    return list(single)


def _has_one(network: ConditionalNetwork, times: Times) -> bool:
    """Return whether all blocks of a network have the same time; a decoder may have r."""
    return not network.tells_decoder or times[1] is None


def _fold(network: ConditionalNetwork, t: Tensor, r: Tensor | None) -> None:
    """Fold the time path of one network, in place."""
    rows = embeddings(network, t, r)
    folds = folds_of()
    blocks = [(module, folds[type(module)]) for module in network.modules() if type(module) in folds]
    label = network.label
    tabled = label is None or fits(rows, [module for module, _ in blocks])
    if tabled:
        for module, fold in blocks:
            fold(module, rows)
    if label is not None:
        label.table = nn.Identity() if tabled else table(rows)  # type: ignore[assignment]
    network.time = None  # type: ignore[assignment]
    if network.second_time is not None:
        network.second_time = nn.Identity()  # it says that r may be given


def embeddings(network: ConditionalNetwork, t: Tensor, r: Tensor | None) -> Tensor:
    """Return what the blocks get at t () and r () for class 0, 1, … and for no label, (rows, e)."""
    label = network.label
    classes = torch.arange(0 if label is None else label.num_classes, device=t.device)
    without = label is None or label.dropout > 0
    weight = next(network.parameters())
    x = weight.new_zeros(1, *network.shape)

    def embed(count: int, **cond: Tensor) -> Tensor:
        second = {} if r is None else {"r": r.expand(count)}
        return network.embed(x.expand(count, -1, -1, -1), t.expand(count), {**cond, **second})[0]

    parts = [embed(len(classes), label=classes)] if len(classes) else []
    return torch.cat([*parts, *([embed(1)] if without else [])])


def fits(rows: Tensor, blocks: Iterable[nn.Module]) -> bool:
    """Return whether tables for (rows, e) embeddings take no more numbers than the layers of the blocks."""
    layers = [layer_of(block) for block in blocks]
    outputs = sum(layer.out_features for layer in layers)
    own = sum(parameter.numel() for layer in layers for parameter in layer.parameters())
    return len(rows) * outputs <= own + rows.numel()


def layer_of(block: nn.Module) -> nn.Linear:
    """Return the layer of a block that takes an embedding."""
    layer = block.affine if hasattr(block, "affine") else block.layer
    assert isinstance(layer, nn.Linear)
    return layer


def table(rows: Tensor) -> nn.Embedding:
    """Return rows (num, o) as a layer (B,) -> (B, o)."""
    return nn.Embedding.from_pretrained(rows.clone())


Fold = Callable[[Any, Tensor], None]
"""Changes a block in place, given the embeddings (rows, e) that it will ever get."""


def folds_of() -> dict[type, Fold]:
    """Return how each kind of block is folded; transformers only where there are any, for timm is slow."""
    folds: dict[type, Fold] = {ResBlock: fold_shift, ADMBlock: fold_scale_and_shift}
    transformers = sys.modules.get(f"{__package__}.dit")
    return folds if transformers is None else {**folds, transformers.Modulation: fold_modulation}


def fold_shift(block: ResBlock, rows: Tensor) -> None:
    """Fold the shift of a block, given (rows, e), into the bias of its first convolution, or into a table."""
    assert block.affine is not None
    shifts = block.affine(rows)
    if len(rows) > 1:
        block.affine = table(shifts)
        return
    bias = block.conv0.bias
    assert isinstance(bias, Tensor)
    bias.add_(shifts[0])
    block.affine = None


def fold_scale_and_shift(block: ADMBlock, rows: Tensor) -> None:
    """Fold scale and shift of a block, given (rows, e), into its second norm, or into a table."""
    assert block.affine is not None
    values = block.affine(rows)
    if len(rows) > 1:
        block.affine = table(values)
        return
    scale, shift = values[0].chunk(2)
    norm = block.norm1
    norm.bias.copy_(norm.bias * (1 + scale) + shift)
    norm.weight.mul_(1 + scale)
    block.affine = None


def fold_modulation(modulation: Any, rows: Tensor) -> None:
    """Fold shifts, scales and gates of a transformer's block, given (rows, e), into a table."""
    modulation.layer = table(modulation.layer(rows))
