"""A velocity made of a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn

from ..._support.names import public_path
from ..._support.velocities import skipping
from ..._support.wrapped import inside
from ...ranges import Checked
from ...types import Cond, evaluations_of, reads_of
from ..checkpoints.spec import spec
from ..skipping import check_called_as_usual


def of_network(name: str) -> Any:
    """Return a property that is an attribute of the network inside; None where that has none."""
    return property(
        lambda self: getattr(self.network, name, None),
        lambda self, value: setattr(self.network, name, value),
    )


class VelocityWrapper(Checked, nn.Module):
    """A network inside, whose shape, classes, conditions and file are also those of the wrapper.

    Args:
        network: the network inside.
        arguments: what else the wrapper is built with, so that a checkpoint can describe it.
    """

    evaluations_of_network = 1
    """Evaluations of the network inside in one call."""

    def __init__(self, network: nn.Module, **arguments: Any):
        super().__init__()
        self.network = network
        inner = spec(network)
        if inner is not None:
            self.spec = {
                "class_path": public_path(type(self)),
                "init_args": {"network": inner, **arguments},
            }
        for name in ("shape", "num_classes", "label_dropout"):
            if hasattr(network, name):
                setattr(self, name, getattr(network, name))

    def with_second_time(self, t: Tensor, cond: Cond, time_input: Callable[[Tensor], Tensor]) -> Cond:
        """Add the second time r = t (B,) to conditions (B, …) where the network reads one, and there is none.

        For wrappers that give the network ``time_input(t)`` (B,) instead of t, which it could not take for r.
        A decoder that has r in the place of t is given ``time_input(r)``.
        """
        reads = reads_of(self.network) or frozenset()
        if "r" not in reads:
            return cond
        r = cond.get("r", t)
        return {**cond, "r": time_input(r) if tells_decoder(self.network) else r}

    @property
    def reads(self) -> frozenset[str] | None:
        """Names of the conditions that the network inside reads."""
        return reads_of(self.network)

    @property
    def evaluations(self) -> int:
        """Network evaluations a call, those of a wrapper inside included."""
        return self.evaluations_of_network * evaluations_of(self.network)

    def skipping(self, names: Sequence[str]) -> AbstractContextManager[None]:
        """Leave parts of the network inside out in the calls inside."""
        check_called_as_usual(self)
        return skipping(self.network, names)

    loaded = of_network("loaded")
    """File that the network inside was read from."""
    codec = of_network("codec")
    """How to build the codec that the network inside was trained with."""


def tells_decoder(network: nn.Module) -> bool:
    """Return whether a network, perhaps inside a wrapper, has r in the place of t in its decoder."""
    *_, last = inside(network)
    return getattr(last, "tells_decoder", False)
