"""The content of a file of weights: its layout, its sets of weights, and what it says of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import FlowlitError
from .fingerprint import hash_state
from .layouts import Layout, OwnLayout
from .layouts.base import is_buffer
from .layouts.rules import State, ordered
from .tensors import check_hashes

Weights = str
"""Name of the weights to take: "ema", "raw", or another average that a run of flowlit has."""


NAMES = {"ema": "average", "raw": "raw weights"}


class Contents(NamedTuple):
    """The content of a file of weights."""

    layout: Layout
    # "raw", "ema", names of other averages, or "only" where the file does not say which it holds
    states: dict[str, State]
    facts: dict[str, Any] = {}  # what a file of flowlit's says of its network, solver, codec and average
    shadow: list[Any] | None = None  # an average without names, in the order of the parameters of "raw"
    hashes: Mapping[str, str] = {}  # of the states that flowlit wrote, by name

    @property
    def velocity(self) -> bool:
        """True if the network in the file predicts a velocity, False if it predicts the data."""
        return self.layout.velocity

    @property
    def first(self) -> State:
        """The set of weights that the architecture is read from: an average may be torn."""
        return next(iter(self.states.values()))

    def holds(self, weights: Weights) -> bool:
        """Return whether weights of a name can be taken from the file."""
        return (
            weights in self.states or "only" in self.states or (weights == "ema" and self.shadow is not None)
        )

    def state(self, weights: Weights, file: str | Path) -> State:
        """Return the weights of one kind, by name, tensors of any shape.

        Raises:
            FlowlitError: if the file does not hold them, its average is of another network, or they are not
                what flowlit wrote.
        """
        if weights == "ema" and self.shadow is not None:
            names = [name for name in self.states["raw"] if not is_buffer(name)]
            return ordered(self.shadow, names, str(file))
        self.check(weights, file)
        for kind in (weights, "only"):
            if kind in self.states:
                if kind in self.hashes:
                    check_hashes({kind: self.hashes[kind]}, {kind: hash_state(self.states[kind])}, file)
                return self.states[kind]
        ours = isinstance(self.layout, OwnLayout)
        never = weights == "ema" and ours and not self.facts.get("ema_updates")
        why = " (it was trained without EMA, or not up to its first move)" if never else ""
        raise FlowlitError(
            f"checkpoint {file} holds no {NAMES[weights]}{why}; use weights: {', '.join(self.states)}"
        )

    def check(self, weights: Weights, file: str | Path) -> None:
        """Refuse names of averages that the file does not hold.

        Raises:
            FlowlitError: naming those that it does.
        """
        known = list(dict.fromkeys(("ema", "raw", *(name for name in self.states if name != "only"))))
        if weights not in known:
            raise FlowlitError(
                f"checkpoint {file}: weights is {weights!r}; expected {' or '.join(map(repr, known))}"
            )

    def average(self, weights: Weights) -> dict[str, Any]:
        """Return how an average was taken, and over how many updates; {} if unknown, and for raw weights."""
        if weights == "raw":
            return {}
        return (self.facts.get("averages") or {}).get(weights) or self.facts.get("ema") or {}
