"""A network without some of its parts, in whose place their inputs pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..._support.modes import evaluating
from ...errors import FlowlitError
from ...types import Cond, reads_of, shape_of
from ..activation_checkpointing import checkpointable
from .base import VelocityWrapper


class Skipped(nn.Module):
    """The place of a part that was left out: returns its first input, (B, …) -> (B, …)."""

    resample = 0

    def forward(self, x: Tensor, *others: Tensor | None) -> Tensor:
        """Return x (B, …), whatever the others."""
        return x


class Pruned(VelocityWrapper):
    """A network without some of its blocks: (x, t, cond) -> (B, C, H, W).

    Use it for a slim student of a teacher's width; ``flowlit.networks.pruned`` chooses the blocks, and keeps
    the teacher's weights in the others. Here they are as those of the network inside: fresh, if it is.

    Args:
        network: ``UNet``, ``ADM`` or ``DiT``, or a wrapper around one; changed in place.
        without: names of parts in it, as ``bottleneck.0`` or ``blocks.3``, each of which returns what has the
            shape of its input (``removable``).

    Raises:
        FlowlitError: for other names.
    """

    def __init__(self, network: nn.Module, without: Sequence[str]):
        known = removable(network)
        other = next((name for name in without if name not in known), None)
        if other is not None or len(set(without)) < len(without):
            problem = (
                f"{other!r} cannot be left out" if other else f"without names a part twice: {[*without]}"
            )
            raise FlowlitError(f"Pruned: {problem}; expected some of {', '.join(known) or 'no part'}")
        super().__init__(network, without=list(without))
        self.without = tuple(without)
        for name in without:
            _put(network, name, Skipped())

    def forward(self, x: Tensor, t: Tensor, cond: Cond = {}) -> Tensor:
        """Return the velocity (B, C, H, W) at x (B, C, H, W) and t (B,), under conditions (B, …)."""
        return self.network(x, t, cond)


def removable(network: nn.Module) -> list[str]:
    """Return the names of the parts of a network that return what has the shape of their first input.

    They are stages of U-Nets but those that halve, double or widen, and blocks of transformers.

    Raises:
        FlowlitError: if it has no parts.
    """
    names = {module: name for name, module in network.named_modules()}
    parts = [part for part in checkpointable(network) if not isinstance(part, Skipped)]
    same: set[nn.Module] = set()

    def compare(part: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if inputs[0].shape == output.shape:
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
    make: dict[str, Callable[[], Tensor]] = {
        "label": lambda: torch.zeros(1, dtype=torch.int64, device=weight.device),
        "image": lambda: torch.zeros_like(x),
    }
    with evaluating(network):
        network(x, weight.new_zeros(1), {name: make[name]() for name in make if name in reads})


@contextmanager
def skipping(network: nn.Module, without: Sequence[str]) -> Iterator[None]:
    """Leave parts of a network out for a while."""
    parts = {name: network.get_submodule(name) for name in without}
    try:
        for name in parts:
            _put(network, name, Skipped())
        yield
    finally:
        for name, part in parts.items():
            _put(network, name, part)


def _put(network: nn.Module, name: str, part: Any) -> None:
    parent, _, child = name.rpartition(".")
    network.get_submodule(parent)._modules[child] = part
