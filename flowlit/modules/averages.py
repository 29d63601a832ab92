"""Moving averages of a network's weights, and their part of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from ..errors import FlowlitError
from ..networks.checkpoints.demands import copied

Metadata = dict[str, Any]
"""How an average was taken, as its ``EMA`` callback describes it, and its ``updates`` so far."""


class Averages(nn.ModuleDict):
    """Averages of a network's weights: ``ema``, and further ones by name while training.

    ``EMA`` callbacks add and move them. The owner registers ``ema`` as a sub-module beside this one, so that
    a state dict has ``ema.*`` and ``averages.<name>.*``. Of a checkpoint that holds several, only training
    reads all; elsewhere the chosen one is read into ``ema``.

    Args:
        network: whose weights are averaged; it is copied.
        choice: weights that generate: "ema", "raw" for those of the network, or the name of another average.
    """

    def __init__(self, network: nn.Module, choice: str = "ema"):
        super().__init__()
        self.choice = choice
        self.metadata: dict[str, Metadata] = {}
        self._ema = (frozen_copy(network),)  # in a tuple, or its keys would be averages.ema.*

    @property
    def ema(self) -> nn.Module:
        """The average that generates unless another one is chosen."""
        return self._ema[0]

    def networks(self) -> list[nn.Module]:
        """Return all averages, ``ema`` first."""
        return [self.ema, *self.values()]

    def begin(self, name: str, network: nn.Module) -> None:
        """Keep an average of this name from now on: a copy of the network, unless it is there already."""
        self.metadata.setdefault(name, {"updates": 0})
        if name != "ema" and name not in self:
            self[name] = frozen_copy(network)

    def average(self, name: str) -> nn.Module:
        """Return the average of a name; ``ema`` where that name was read into it, or is its own."""
        if name in self:
            return self[name]
        return self.ema

    def describe(self, name: str) -> Metadata:
        """Return how an average was taken, and its updates; {} before its first update, and for "raw"."""
        if name == "raw":
            return {}
        metadata = self.metadata.get(name if name in self else "ema", {})
        return dict(metadata) if metadata.get("updates") else {}

    def updates(self, name: str = "ema") -> int:
        """Return the number of updates so far; 0 if it is no average yet."""
        return self.metadata.get(name, {}).get("updates", 0)

    def record(self, name: str, metadata: Metadata) -> None:
        """Set how an average is taken, and its ``updates`` so far."""
        self.metadata[name] = metadata

    def generating(self) -> str:
        """Return the name of the weights that generate: the choice, or "raw" before its first update."""
        return self.choice if self.describe(self.choice) else "raw"

    def pick(self, network: nn.Module) -> nn.Module:
        """Return the weights that generate: the chosen average, or the network before its first update."""
        if not self.updates():  # otherwise the choice may have been read into ema
            self.check_choice()
        name = self.generating()
        return network if name == "raw" else self.average(name)

    def check_choice(self) -> None:
        """Refuse a choice that is neither kept nor read.

        Raises:
            FlowlitError: naming the weights that are there.
        """
        expected = ["ema", "raw", *self]
        if self.choice not in expected:
            raise FlowlitError(
                f"weights is {self.choice!r}; expected {' or '.join(map(repr, expected))}: in fit, a name of "
                "an EMA callback, otherwise one that the checkpoint holds (--ckpt_path)"
            )

    def facts(self) -> dict[str, Any]:
        """Return the entries of a checkpoint that describe its averages."""
        return {
            "ema_updates": self.updates(),
            "ema": self.describe("ema"),
            "averages": {name: self.describe(name) for name in self},
        }

    def read_checkpoint(self, checkpoint: dict[str, Any], training: bool) -> None:
        """Take over the metadata of a checkpoint; outside training, put the chosen average in its ``ema.*``.

        Raises:
            FlowlitError: if it has other averages than this run, or lacks the chosen one.
        """
        stored = averages_of(checkpoint)
        if training:
            self._check_same(checkpoint, stored)
        elif not self:
            stored = self._choose(checkpoint, stored)
        names = {**self.metadata, **stored}
        self.metadata = {name: {"updates": 0, **stored.get(name, {})} for name in names}

    def _check_same(self, checkpoint: dict[str, Any], stored: dict[str, Metadata]) -> None:
        """Refuse to go on with other averages than before."""
        before = stored.keys() | checkpoint.get("averages_waiting", {}).keys()  # the latter before any move
        if checkpoint.get("global_step") and before != self.metadata.keys():
            raise FlowlitError(
                f"the averages of the checkpoint are {join_names(before)}, those of the EMA callbacks "
                f"{join_names(self.metadata)}; go on with the config.yaml beside it, or start a new run from "
                "its weights (flowlit.networks.pretrained)"
            )

    def _choose(self, checkpoint: dict[str, Any], stored: dict[str, Metadata]) -> dict[str, Metadata]:
        """Move the chosen average of a checkpoint to ``ema.*``, drop the others, and return its metadata."""
        if self.choice not in ("ema", "raw", *stored):
            names = join_names(["raw", *stored])
            raise FlowlitError(f"weights is {self.choice!r}, but the checkpoint holds {names}")
        state = checkpoint["state_dict"]
        chosen = self.choice if self.choice in stored else "ema"
        prefix = f"averages.{chosen}."
        for key in [key for key in state if key.startswith("averages.")]:
            value = state.pop(key)
            if key.startswith(prefix):
                state[f"ema.{key.removeprefix(prefix)}"] = value
        return {"ema": stored[chosen]} if chosen in stored else {}


def frozen_copy(network: nn.Module) -> nn.Module:
    """Return a copy in eval mode whose parameters need no gradient."""
    return copied(network).requires_grad_(False).eval()


def averages_of(checkpoint: dict[str, Any]) -> dict[str, Metadata]:
    """Return the averages that a checkpoint holds, by name: how each was taken, and its updates."""
    facts = checkpoint.get("flowlit", {})
    updates = facts.get("ema_updates", 0)
    ema = {"ema": {**(facts.get("ema") or {}), "updates": updates}} if updates else {}
    return {**ema, **(facts.get("averages") or {})}


def without_averages(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict, tensors of any shape, without the averages that a module has only in training."""
    return {key: value for key, value in state.items() if not key.startswith("averages.")}


def join_names(names: Iterable[str]) -> str:
    """Return names in their order for a message; "none" if there are none."""
    return ", ".join(sorted(names)) or "none"
