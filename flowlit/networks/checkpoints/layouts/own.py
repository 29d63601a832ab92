"""The layout of flowlit's own files, which have our names and the spec of their network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ....errors import FlowlitError
from .base import Layout
from .rules import Rule, State, Translated


@dataclass(frozen=True)
class OwnLayout(Layout):
    """Checkpoints of ``flowlit fit``, and safetensors of ``flowlit convert`` and ``flowlit average``.

    Args:
        facts: what the file says of its network, solver, codec and average.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def matches(state: Mapping[str, Tensor]) -> bool:
        """Return False: our files are recognised by what stands beside the state dict (any shape)."""
        return False

    def describe(self, state: State) -> dict[str, Any]:
        """Return the spec that the file holds; the state dict (any shape) is not used."""
        if self.facts.get("network") is None:
            raise FlowlitError(
                f"checkpoint {self.file} does not tell how its network is built; give it as network"
            )
        return self.facts["network"]

    def rules(self, network: nn.Module) -> list[Rule]:
        """Return a rule of equal names for each tensor."""
        return [Rule(name, (name,)) for name in network.state_dict()]

    def wrap(self, network: nn.Module, state: State) -> nn.Module:
        """Return the network: our files hold velocities. The state dict (any shape) is compared later.

        Raises:
            FlowlitError: if its times have another scale than those in the file.
        """
        theirs = _time_scale(self.facts.get("network"))
        ours = _time_scale(getattr(network, "spec", None))
        if theirs != ours and None not in (theirs, ours):
            raise FlowlitError(
                f"checkpoint {self.file} is of a network with time_scale {theirs:g}, found {ours:g}; give "
                f"the same, or change the file's: flowlit convert {self.file} --clock {ours:g} --into FILE"
            )
        return network

    def translate(self, network: nn.Module, state: State) -> tuple[Translated, list[str]]:
        """Return the state dict as it is, tensors of any shape and type."""
        return Translated(state, [name for name in network.state_dict() if name not in state], [], []), []


def _time_scale(description: Any) -> float | None:
    """Return the time_scale of a described network, perhaps inside wrappers; None if it has none."""
    arguments = (description or {}).get("init_args") or {}
    if isinstance(arguments.get("network"), Mapping):
        return _time_scale(arguments["network"])
    scale = arguments.get("time_scale")
    return float(scale) if isinstance(scale, (int, float)) else None
