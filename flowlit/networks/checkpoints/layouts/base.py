"""A format of weights as an object: how its files are recognised, their networks built and filled."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from ....errors import FlowlitError
from ...wrappers.preconditioning import EDM
from ..spec import summarise
from .rules import Rule, State, Translated, to_ours, to_theirs


@dataclass(frozen=True)
class Layout(ABC):
    """Names, order and construction of the networks in one file of a project.

    A new format is a subclass in a file of its own, and its place in ``layouts.LAYOUTS``.

    Args:
        file: the name of the file, for messages.
        plain: the file is a state dict, without a trainer's dict around it.
        preconditioned: the names begin as those of EDM's preconditioner do.
    """

    file: str = ""
    plain: bool = False
    preconditioned: bool = False

    @property
    def velocity(self) -> bool:
        """True if the network in the file predicts a velocity, False if it predicts the data."""
        return True

    @staticmethod
    @abstractmethod
    def matches(state: Mapping[str, Tensor]) -> bool:
        """Return whether a state dict, tensors of any shape, has the names of this layout."""

    hint: ClassVar[str] = ""
    """What to say of the network that is to be given where it cannot be inferred."""

    def infer(self, state: State) -> dict[str, Any]:
        """Return the spec of the network, from names and shapes of a state dict, tensors of any shape.

        Raises:
            FlowlitError: if they do not determine it, saying what to give.
        """
        try:
            return self.describe(state)
        except (KeyError, IndexError, ValueError, ZeroDivisionError, StopIteration) as error:
            raise FlowlitError(
                f"checkpoint {self.file}: its architecture cannot be told from its weights "
                f"({type(error).__name__}: {error}); give it as network{self.hint}"
            ) from error

    @abstractmethod
    def describe(self, state: State) -> dict[str, Any]:
        """Return the spec of the network of a state dict, tensors of any shape, which may lack what it needs.

        Errors that follow from that are those of look-ups and of arithmetic.
        """

    @abstractmethod
    def rules(self, network: Any) -> list[Rule]:
        """Return one rule for each tensor of a network, in the order of their ``model.parameters()``."""

    @abstractmethod
    def wrap(self, network: Any, state: State) -> nn.Module:
        """Return the velocity that a network becomes with the weights of a state dict, tensors of any shape.

        Raises:
            FlowlitError: if the network is of another kind than that in the file, or has other times.
        """

    def settled(self, network: nn.Module | None) -> Layout:
        """Return this layout, or what it turns out to be when a network is given to hold the weights."""
        return self

    def refuse(self, state: State) -> None:  # noqa: B027
        """Refuse relatives that have the same names, by a state dict with tensors of any shape.

        Raises:
            FlowlitError: naming the first tensor that shows it.
        """

    def is_unused(self, name: str) -> bool:
        """Return whether the tensor of a name says nothing about a velocity."""
        return is_buffer(name)

    def translate(self, network: nn.Module, state: State) -> tuple[Translated, list[str]]:
        """Return a state dict, tensors of any shape, in the names of a network; and the names without use."""
        unused = [name for name in state if self.is_unused(name)]
        return to_ours(state, self.rules(network), self.is_unused), unused

    def written(self, network: nn.Module) -> State:
        """Return the state dict of a network in their names and order, tensors of any shape.

        Raises:
            FlowlitError: if the layout has no place for a tensor.
        """
        rules = self.rules(network)
        state: State = network.state_dict()
        homeless = sorted(set(state) - {rule.ours for rule in rules})
        if homeless:
            raise FlowlitError(
                f"the layout has no place for {len(homeless)} tensors of {type(network).__name__}: "
                f"{homeless[0]} …; use --layout safetensors"
            )
        return to_theirs(state, rules)

    def content(self, state: State) -> str:
        """Return a sentence on the network of a state dict, tensors of any shape; '' if it is unknown."""
        try:
            return f" It holds {summarise(self.infer(state))}: give that as network, or none (null)"
        except FlowlitError:
            return ""

    def check(self, network: Any, kind: Any, state: State) -> Any:
        """Return the network inside ``EDM``, if that is around it; refuse what cannot hold the weights.

        Args:
            network: a velocity.
            kind: class of the network in the file.
            state: its weights, tensors of any shape.

        Raises:
            FlowlitError: if it is of another class, or has times of another scale.
        """
        inside: Any = network.network if isinstance(network, EDM) else network
        if not isinstance(inside, kind):
            raise FlowlitError(
                f"checkpoint {self.file} cannot be read into {type(inside).__name__}.{self.content(state)}"
            )
        if self.velocity and isinstance(network, EDM):
            raise FlowlitError(
                f"checkpoint {self.file} holds a network that predicts a velocity; give it without EDM "
                "around it"
            )
        scale = 999 if self.velocity else 1
        if inside.time.scale != scale:
            raise FlowlitError(
                f"checkpoint {self.file} needs a network with time_scale {scale}, found {inside.time.scale:g}"
            )
        return inside


def is_buffer(name: str) -> bool:
    """Return whether a tensor is no parameter: noise levels, which flows do not use, or a filter."""
    return name == "sigmas" or name.endswith("resample_filter")
