"""Evaluations of networks, counted where they are called: also of compiled ones, and of replayed graphs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..._support.cuda_graphs import called
from ..._support.derivatives import differentiating, plain
from ...frozen import Frozen, FrozenLayers
from ...metrics.training_cost import Evaluations
from ...types import Coupling, Distance, evaluations_of


class Tally:
    """A count of a network's evaluations.

    Args:
        network: a call of which may be several evaluations, as under guidance.
        counts: that go on.
    """

    def __init__(self, network: Any, counts: Evaluations):
        self.of_a_call = evaluations_of(network)
        self.counts = counts
        self.on = True

    def add(self, x: Tensor, output: Any) -> None:
        """Count the evaluations of samples x (B, …) by a call; two for a forward derivative."""
        if not self.on:
            return
        number = len(x) * self.of_a_call * (2 if differentiating() else 1)
        if torch.is_grad_enabled() and _has_gradient(output):
            self.counts.with_gradient += number
        else:
            self.counts.without_gradient += number


def _has_gradient(output: Any) -> bool:
    if isinstance(output, Tensor):
        return plain(output).requires_grad
    return any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree_leaves(output))


class CountedCall:
    """A call of a network that is counted; of a compiled one the call around what was compiled."""

    def __init__(self, call: Callable[..., Any], tally: Tally):
        self.call = call
        self.tally = tally

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output = self.call(*args, **kwargs)
        self.tally.add(args[0] if args else next(iter(kwargs.values())), output)
        return output


class CountedNetworks:
    """Trained networks, averages and frozen velocities of a training, each counted under a name.

    Frozen networks of distances are no velocities and are left out.

    Args:
        module: a ``FlowModule``.
        coupling: of its data; a teacher in it makes pairs before the step that takes them.
        counts: by name; they go on.
    """

    def __init__(self, module: Any, coupling: Any, counts: dict[str, Evaluations]):
        self._counts = counts
        self._calls: list[tuple[nn.Module, Any]] = []
        self._trained = [(network, self._tally(name, network)) for name, network in _trained(module)]
        self._frozen: list[Frozen] = []
        self._guides = [self._watch(name, frozen) for name, frozen in _guides(module)]
        for name, frozen in _inside(coupling, "coupling."):
            self._watch(name, frozen)
        self.end()

    def _tally(self, name: str, network: Any) -> Tally:
        return Tally(network, self._counts.setdefault(name, Evaluations()))

    def _watch(self, name: str, frozen: Frozen) -> Tally:
        """Count a frozen network, which may stand in several places, under the last of its names."""
        tally = self._tally(name, frozen)
        frozen.observer = tally.add
        self._frozen.append(frozen)
        return tally

    def begin(self) -> None:
        """Count from here on: the calls of a training step."""
        self.end()
        for network, tally in self._trained:
            self._calls.append((network, network._compiled_call_impl))
            network._compiled_call_impl = CountedCall(called(network), tally)  # type: ignore[assignment]
        for tally in self._guides:
            tally.on = True

    def end(self) -> None:
        """Count no longer, but for the teacher of a coupling."""
        for tally in self._guides:
            tally.on = False
        while self._calls:
            network, call = self._calls.pop()
            network._compiled_call_impl = call

    def release(self) -> None:
        """Leave all networks as they were."""
        self.end()
        for frozen in self._frozen:
            frozen.observer = None


def _trained(module: Any) -> Iterator[tuple[str, nn.Module]]:
    yield "network", module.network
    averages = getattr(module, "averages", None)
    if averages is not None:
        yield from zip(["ema", *averages.keys()], averages.networks(), strict=True)
    critic = getattr(module, "critic", None)
    if critic is not None:
        yield "critic", critic.network


def _guides(module: Any) -> Iterator[tuple[str, Frozen]]:
    yield from _inside(getattr(module, "objective", None), "")
    yield from _inside(getattr(getattr(module, "critic", None), "objective", None), "critic.")


def _inside(part: Any, prefix: str) -> Iterator[tuple[str, Frozen]]:
    """Yield the frozen velocities of an objective or a coupling, and of all parts inside it."""
    if isinstance(part, Distance):
        return
    own = getattr(part, "__dict__", {})
    for name, value in own.items():
        yield from _frozen(f"{prefix}{name}", value)
    couplings = ((name, value) for name, value in own.items() if isinstance(value, Coupling))
    for name, child in part.named_children() if isinstance(part, nn.Module) else couplings:
        yield from _inside(child, f"{prefix}{name}.")


def _frozen(name: str, value: Any) -> Iterator[tuple[str, Frozen]]:
    """Yield a frozen velocity, or those in a list or mapping."""
    if isinstance(value, Frozen) and not isinstance(value, FrozenLayers):
        yield name, value
    elif isinstance(value, (dict, list, tuple)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            if isinstance(item, Frozen):
                yield from _frozen(f"{name}.{key}", item)


class Clock:
    """Seconds by the clock, and of the processor, while it runs."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.processor_seconds = 0.0
        self._since: tuple[float, float] | None = None

    def start(self) -> None:
        if self._since is None:
            self._since = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        if self._since is not None:
            self.seconds += time.perf_counter() - self._since[0]
            self.processor_seconds += time.process_time() - self._since[1]
            self._since = None

    def read(self) -> tuple[float, float]:
        """Return both, up to now."""
        running = self._since is not None
        self.stop()
        if running:
            self.start()
        return self.seconds, self.processor_seconds
