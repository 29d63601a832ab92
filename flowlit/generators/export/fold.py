"""Generators without a time path, where their solver calls the network at one time only."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..._support.velocities import blank_images
from ...networks import FixedTime, Router
from ...networks.base import ConditionalNetwork
from ...solvers.base import unchecked
from ...types import Cond, reads_of
from ..core import NoiseToImages
from .enlarging import takes_t


class Folded(NamedTuple):
    """A generator whose time path is folded away, if it could be, and what that saved."""

    generator: Any
    before: int
    """Parameters."""
    after: int
    why: str
    """In words what was folded, or why nothing was."""

    @property
    def removed(self) -> float:
        """Share of the parameters that was removed."""
        return 1 - self.after / max(self.before, 1)


class Recorder:
    """A velocity of zeros that records the times at which a solver calls it."""

    def __init__(self) -> None:
        self.times: list[tuple[float, float | None]] = []

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = {}) -> Tensor:
        """Return zeros (B, C, H, W) at x (B, C, H, W) and t (B,), under conditions (B, …)."""
        r = cond.get("r")
        self.times.append((float(t[0]), None if r is None else float(r[0])))
        return torch.zeros_like(x)

    def skipping(self, names: Sequence[str]) -> AbstractContextManager[None]:
        """Leave nothing out, as nothing is computed."""
        return nullcontext()


def times_of(generator: NoiseToImages) -> list[tuple[float, float | None]]:
    """Return (t, r) of each call of its network by a generator's solver."""
    recorder = Recorder()
    x0 = torch.zeros(1, *(generator.shape or (1, 1, 1)))
    reads = reads_of(generator.network) or frozenset()
    cond = blank_images(reads, x0)
    if "label" in reads:
        cond["label"] = torch.zeros(1, dtype=torch.int64)
    with torch.no_grad(), unchecked():
        generator.solver(recorder, x0, cond)
    return recorder.times


def count(network: nn.Module) -> int:
    """Return the number of parameters of a network."""
    return sum(parameter.numel() for parameter in network.parameters())


def folded(generator: NoiseToImages) -> Folded:
    """Return a generator of the same images whose network lacks its time path; the given one stays.

    Networks of several times, or of a kind whose time path is not known, come back as they are.
    """
    network = generator.network
    number = count(network)
    if takes_t(generator):
        return Folded(generator, number, number, "kept: t is an input")
    times = list(dict.fromkeys(times_of(generator)))
    if len(times) != 1:
        why = f"kept: the solver calls the network at {len(times)} times"
        return Folded(generator, number, number, why)
    if any(isinstance(module, Router) for module in network.modules()):
        return Folded(generator, number, number, "kept: students of a Router are folded one by one")
    if any(isinstance(module, FixedTime) for module in network.modules()):
        return Folded(generator, number, number, "folded away already")
    if not any(isinstance(module, ConditionalNetwork) for module in network.modules()):
        return Folded(generator, number, number, f"kept: {type(network).__name__} is of another kind")
    t, r = times[0]
    fixed = FixedTime(deepcopy(network), t, r).requires_grad_(False).eval()
    after = count(fixed)
    if after == number:
        return Folded(generator, number, number, "kept: parts of the network have different times")
    second = "" if r is None else f", r = {r:g}"
    result = replace(generator, network=fixed)
    return Folded(result, number, after, f"folded into constants at t = {t:g}{second}")
