"""Compare whole runs: everything in a checkpoint, and everything that was logged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

HELPERS = Path(__file__).parent
TIMED = ("images_per_s", "image_seconds", "step_seconds", "hp_metric")


def flat(node: Any, at: str = "") -> dict[str, Any]:
    """Every leaf of a checkpoint by its path; without the paths of files, which differ between runs."""
    if isinstance(node, dict):
        return {
            k: v
            for key, value in node.items()
            if "ModelCheckpoint" not in str(key)
            for k, v in flat(value, f"{at}/{key}").items()
        }
    if isinstance(node, (list, tuple)):
        return {k: v for i, value in enumerate(node) for k, v in flat(value, f"{at}/{i}").items()}
    return {at: node}


def differences(a: Path | str, b: Path | str, ignore: tuple[str, ...] = ("hyper_parameters",)) -> list[str]:
    """Where two checkpoints differ, to the bit."""
    x, y = (
        {
            k: v
            for k, v in flat(torch.load(path, weights_only=True)).items()
            if not any(word in k for word in ignore)
        }
        for path in (a, b)
    )
    unequal = [
        k
        for k in x.keys() & y.keys()
        if not (torch.equal(x[k], y[k]) if isinstance(x[k], Tensor) else x[k] == y[k])
    ]
    return sorted([*(x.keys() ^ y.keys()), *unequal])


def logged(folder: Path | str) -> dict[str, dict[int, float]]:
    """Every scalar of a run by tag and step, whatever the number of its parts; parts that overlap must
    agree.
    """
    found: dict[str, dict[int, float]] = {}
    for file in sorted(Path(folder).glob("events.*")):
        events = EventAccumulator(str(file), size_guidance={"scalars": 0})
        events.Reload()
        for tag in events.Tags()["scalars"]:
            for event in events.Scalars(tag):
                if not tag.startswith(TIMED):
                    before = found.setdefault(tag, {}).setdefault(event.step, event.value)
                    assert before == event.value or before != before, (
                        f"{tag} at {event.step}: {before}, then {event.value}"
                    )
    return found
