"""States of stored trajectories: the shards of a store have those before x1, at the times of its manifest."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ...errors import FlowlitError
from ...types import Pair


class States(NamedTuple):
    """Which states of each trajectory are read."""

    places: list[int]
    """Of those before x1 among the stored ones."""

    times: list[float]
    """Of them, and 1.0, the time of x1."""

    def conditions(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Return dtype and shape of what a row has of its states, by name."""
        path = (manifest["x1"], (len(self.places), *manifest["shape"]))
        return {"path": path, "times": ("float32", (len(self.times),))}

    def stored(self) -> list[str]:
        """Return the names of the tensors that they are read from."""
        return ["path"] if self.places else []

    def add(self, pair: Pair) -> Pair:
        """Return a pair with ``path`` (B, n - 1, C, H, W) and ``times`` (B, n), of all that were read."""
        path = pair.cond["path"] if self.places else pair.x1[:, None]
        times = torch.tensor(self.times).repeat(len(path), 1)
        return pair._replace(cond={**pair.cond, "path": path[:, self.places], "times": times})


def states_of(manifest: dict[str, Any], number: int, folder: Path) -> States:
    """Choose so many states, the last x1, spread evenly over those that a store has.

    Raises:
        FlowlitError: if it has fewer.
    """
    times = manifest.get("times") or [1.0]
    if not 1 <= number <= len(times):
        has = f"{len(times)} states a trajectory" if len(times) > 1 else "pairs alone, one state"
        raise FlowlitError(
            f"{folder}: states is {number}, but it holds {has} (and the noise); lower it, or make a store "
            "with more: flowlit couple … --times"
        )
    places = [round((i + 1) * len(times) / number) - 1 for i in range(number)]
    return States(places[:-1], [times[place] for place in places])


def warn_of_rounding(states: States, manifest: dict[str, Any], source: str) -> None:
    """Warn of states that are rounded, with what that changes in differences of them."""
    ends = manifest["rounding"].values() if states.places else ()
    rms = max((error["rms"] for error in ends), default=0.0)
    if not rms:
        return
    span = min(end - start for start, end in zip([0.0, *states.times], states.times, strict=False))
    logging.getLogger("flowlit").warning(
        "%s: states are stored as %s (x0: %s), which rounds them by %.2g (rms); an average velocity over the "
        "shortest span, %.3g, is wrong by up to %.2g (rms). Store them with --x0 float32 --x1 float32, or "
        "read fewer states",
        source,
        manifest["x1"],
        manifest["x0"],
        rms,
        span,
        math.sqrt(2) * rms / span,
    )
