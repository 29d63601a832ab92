"""Networks that leave blocks out, for good or for a while; a block's input passes in its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .._support.modes import evaluating
from .._support.velocities import blank_images
from ..errors import FlowlitError
from ..types import reads_of, shape_of
from .activation_checkpointing import absent, with_parts

_known: WeakKeyDictionary[nn.Module, list[str]] = WeakKeyDictionary()


class Skipped(nn.Module):
    """The place of a part that was left out: returns its first input, (B, …) -> (B, …)."""

    resample = 0

    def forward(self, x: Tensor, *others: Tensor | None) -> Tensor:
        """Return x (B, …), whatever the others."""
        return x


def removable(network: nn.Module) -> list[str]:
    """Return the names of the parts of a network that return what has the shape of their first input.

    They are stages of U-Nets but those that halve, double or widen, and blocks of transformers; in U-Nets of
    diffusers residual blocks.

    Raises:
        FlowlitError: if it has no parts.
    """
    names = {module: name for name, module in network.named_modules()}
    inside: Any = with_parts(network)
    blocks = getattr(inside, "residual_blocks", inside.checkpointable)()
    parts = [part for part in blocks if not isinstance(part, Skipped)]
    same: set[nn.Module] = set()

    def compare(part: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        if isinstance(output, Tensor) and inputs[0].shape == output.shape:
            same.add(part)

    hooks = [part.register_forward_hook(compare) for part in parts]
    try:
        call_once(network)
    finally:
        for hook in hooks:
            hook.remove()
    return [names[part] for part in parts if part in same]


@torch.no_grad()
def call_once(network: nn.Module) -> None:
    """Evaluate a network at zeros, with all conditions that it reads."""
    weight = next(network.parameters())
    x = weight.new_zeros(1, *(shape_of(network) or (1, 1, 1)))
    reads = reads_of(network) or frozenset()
    cond = blank_images(reads, x)
    if "label" in reads:
        cond["label"] = torch.zeros(1, dtype=torch.int64, device=weight.device)
    with evaluating(network):
        network(x, weight.new_zeros(1), cond)


@contextmanager
def skipping(network: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Leave parts of a network out in the calls inside, those of this thread alone.

    Raises:
        FlowlitError: for other parts than ``removable`` ones, for U-Nets of diffusers, and for a network that
            runs as it was compiled or recorded.
    """
    if names and hasattr(with_parts(network), "residual_blocks"):
        raise FlowlitError(
            f"{type(network).__name__}: blocks of diffusers cannot be left out for a while; for good by "
            "networks.Pruned, with their names"
        )
    check_called_as_usual(network)
    if network not in _known:
        _known[network] = removable(network)
    other = next((name for name in names if name not in _known[network]), None)
    if other is not None:
        raise FlowlitError(
            f"{type(network).__name__}: {other!r} cannot be left out; expected some of "
            f"{', '.join(_known[network]) or 'no part'}"
        )
    token = absent.set(absent.get() | {network.get_submodule(name) for name in names})
    try:
        yield
    finally:
        absent.reset(token)


def check_called_as_usual(network: nn.Module) -> None:
    """Refuse a network whose calls run what was compiled, or recorded as CUDA graphs, with all its blocks.

    Raises:
        FlowlitError: saying what to do.
    """
    if network._compiled_call_impl is not None:
        raise FlowlitError(
            f"{type(network).__name__} is compiled, or replayed from CUDA graphs, which have all blocks; "
            "leave these out, or take a schedule without skipped"
        )


def put(network: nn.Module, name: str, part: Any) -> None:
    """Put a module in the place of a part."""
    parent, _, child = name.rpartition(".")
    network.get_submodule(parent)._modules[child] = part
