"""Numbers and pictures in event files, through TensorBoard's own reader."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCALARS = 20_000
"""Numbers of a tag that are read, at most; the reader thins out longer ones."""

PICTURES = 50
"""Likewise, of pictures."""

KEPT = {"scalars": SCALARS, "images": PICTURES, "tensors": 1, "histograms": 1, "compressedHistograms": 1}


@dataclass
class Curves:
    """Numbers and pictures that a run has logged."""

    scalars: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    """(step, number) by tag, in the order of steps; all are finite."""
    pictures: dict[str, list[tuple[int, bytes]]] = field(default_factory=dict)
    """(step, content of a file) by tag."""
    began: float | None = None
    """Time of the first number, in seconds since 1970."""
    seconds: float | None = None
    """From the first number to the last, by the clock."""
    problems: list[str] = field(default_factory=list)


def read_curves(folder: Path) -> Curves:
    """Read the event files in a folder; what cannot be read is a line among the problems."""
    curves = Curves()
    files = list(folder.glob("events.out.tfevents.*"))
    if not files:
        return curves
    if not all(file.is_file() for file in files):  # the reader would wait for a pipe for ever
        curves.problems.append("event files are not all plain files, and not read")
        return curves
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    try:
        _read(folder, curves)
    except Exception as error:  # the bytes of a damaged file lead to errors of many kinds
        curves.problems.append(f"event files cannot be read ({type(error).__name__}: {error!s:.200})")
    return curves


def _read(folder: Path, curves: Curves) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance=KEPT)
    events.Reload()
    tags = events.Tags()
    times = []
    dropped = 0
    for tag in tags["scalars"]:
        entries = events.Scalars(tag)
        times += [entries[0].wall_time, entries[-1].wall_time] if entries else []
        values = {entry.step: entry.value for entry in entries if math.isfinite(entry.value)}
        dropped += sum(not math.isfinite(entry.value) for entry in entries)
        curves.scalars[tag] = sorted(values.items())
    for tag in tags["images"]:
        curves.pictures[tag] = _pictures(events.Images(tag))
    if times:
        curves.began = min(times)
    if any(len(values) > 1 for values in curves.scalars.values()):  # a training, not one evaluation
        curves.seconds = max(times) - min(times)
    if dropped:
        curves.problems.append(f"{dropped:,} logged numbers are not finite, and not drawn")


def _pictures(entries: Any) -> list[tuple[int, bytes]]:
    return sorted({entry.step: entry.encoded_image_string for entry in entries}.items())
