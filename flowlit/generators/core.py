"""The arithmetic of a generator: noise and conditions go in, images come out."""

from __future__ import annotations

import os
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from .._support.batch_invariance import BatchInvariant
from .._support.cuda_graphs import CUDAGraphRunner, called, check_device, is_compiled, replayed
from .._support.modes import evaluating
from ..data.classes import class_names_of
from ..errors import FlowlitError
from ..solvers.base import check_end
from ..types import Codec, Cond, Observer, Solution, Solver, classes_of, shape_of
from .files import save
from .inputs import (
    as_device,
    check_kind,
    conditions,
    half_precision_of,
    names_of_classes,
    noise_to_start_from,
    sizes,
    whole_number,
)
from .labels import labelled

Precision = Literal["float32", "bf16"]
Self = TypeVar("Self", bound="NoiseToImages")


@dataclass(repr=False)
class NoiseToImages:
    """A network, a solver and a codec, called as one; what ``Generator`` is made of."""

    network: nn.Module
    solver: Solver
    codec: Codec
    shape: tuple[int, ...] | None = None
    num_classes: int | None = None
    precision: Precision = "float32"
    blocks: bool = True
    class_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for value, name, kind in (
            (self.network, "network", nn.Module),
            (self.solver, "solver", Solver),
            (self.codec, "codec", Codec),
            (self.blocks, "blocks", bool),
        ):
            check_kind(value, name, kind)
        check_end(repr(self.solver), self.solver, self.codec)
        if self.shape is None:
            self.shape = shape_of(self.network)
        if self.num_classes is None:
            self.num_classes = classes_of(self.network) or 0
        if self.class_names is None:
            self.class_names = class_names_of(self.network)
        self.shape = None if self.shape is None else sizes(self.shape)
        self.num_classes = whole_number(self.num_classes, "num_classes")
        self.class_names = names_of_classes(self.class_names, self.num_classes)
        if self.precision not in ("float32", "bf16"):
            raise FlowlitError(f"precision is {self.precision!r}; expected one of float32, bf16")

    def __repr__(self) -> str:
        facts = [
            f"{type(self.network).__name__} of {sum(p.numel() for p in self.network.parameters()):,} weights"
        ]
        facts += [] if self.shape is None else ["×".join(map(str, self.shape))]
        facts += [f"{self.num_classes} classes"] if self.num_classes else []
        facts += [repr(self.solver), repr(self.codec), str(self.device)]
        facts += [] if self.precision == "float32" else [self.precision]
        return f"{type(self).__name__}({', '.join(facts)})"

    @torch.no_grad()
    def __call__(self, x0: Tensor, cond: Cond = {}, *, labels: Any = None) -> Tensor:
        """Return the images of noise, uint8 (B, C, H, W).

        Args:
            x0: noise (B, c, h, w), N(0, 1): a tensor on any device, or a NumPy array.
            cond: conditions (B, …) by name, as {"label": tensor}; likewise.
            labels: class of all images, or a sequence with one for each: numbers, or names where these are
                known. Stands for the "label" of ``cond``.

        Raises:
            FlowlitError: for noise that is not finite or of another shape, and labels that are no classes.
        """
        return self.codec.decode(self.solve(x0, cond, labels=labels).x1)

    def solve(
        self, x0: Tensor, cond: Cond = {}, *, labels: Any = None, observe: Observer | None = None
    ) -> Solution:
        """Return x1 (B, c, h, w) float32, before it is rounded to images, and its cost.

        Gradients reach x0 (B, c, h, w), and the weights where these take gradients (those of ``load`` do
        not). ``Pixels`` are in about [-1, 1]. ``observe`` is called by the solver, see ``types.Observer``.

        Examples:
            >>> x0 = generator.noise([1]).requires_grad_()  # doctest: +SKIP
            >>> generator.solve(x0).x1.mean().backward()  # doctest: +SKIP
        """
        x0 = noise_to_start_from(x0, self.network, self.shape)
        classes = self.num_classes or 0
        cond = conditions(labelled(cond, labels, len(x0), classes, self.class_names), x0, classes)
        velocity = BatchInvariant(self.network) if self.blocks else self.network
        half = torch.bfloat16 if self.precision == "bf16" else half_precision_of(self.network)
        observed: dict[str, Any] = {} if observe is None else {"observe": observe}
        with evaluating(self.network):
            if half is None:
                return self.solver(velocity, x0, cond, **observed)
            with torch.autocast(x0.device.type, half, cache_enabled=False):
                return self.solver(velocity, x0, cond, **observed)

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return next((p.device for p in self.network.parameters()), torch.device("cpu"))

    def to(self: Self, device: torch.device | str) -> Self:
        """Move the network to a device, as "cuda" or "cpu"; return this generator.

        Raises:
            FlowlitError: if this machine has no such device.
        """
        self.network.to(as_device(device))
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights with their description as safetensors, from which ``flowlit.load`` makes the same
        generator.

        The file has the network, solver, codec, shape and names of classes; ``precision`` and ``blocks`` are
        chosen anew. An earlier file of that name is replaced.

        Args:
            path: ends in .safetensors.

        Raises:
            FlowlitError: if a part cannot be described, or built again from its description.
        """
        save(self, path)


def faster(network: nn.Module, channels_last: bool, compile: bool, graphs: bool) -> nn.Module:
    """Return a copy of a network that computes the same in less time; see ``Generator.faster``.

    What was compiled, or replayed from graphs, is again in the copy.

    Raises:
        FlowlitError: if it is not where graphs are.
    """
    copy = deepcopy(network).eval()
    if channels_last:
        copy.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for before, now in zip(network.modules(), copy.modules(), strict=True):
        if is_compiled(before) or (compile and now is copy):
            now.compile()
    if graphs:
        check_device(next((p.device for p in copy.parameters()), torch.device("cpu")))
    if graphs or isinstance(called(network), CUDAGraphRunner):
        replayed(copy)
    return copy
