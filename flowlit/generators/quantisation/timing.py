"""Time that a file takes, in all and by layer, measured by onnxruntime on this machine."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from ...types import Noise
from ..export.onnx_file import inputs_of, session
from .allocation import Table
from .choice import WIDTHS

CALLS = 30
"""Of one image, of which the fastest counts in all, and the median of each layer."""

UNCOUNTED = 5
"""Calls before."""

KERNEL = "_kernel_time"
"""End of the names of what a profile has of nodes; onnxruntime's own optimisation appends ``_…`` to these."""

Inputs = Mapping[str, Any]
"""Arrays by name."""


def one_image(noise: Noise) -> Inputs:
    """Return the first of some noise, as a file takes it."""
    label = noise.cond.get("label")
    return inputs_of(noise.x0[:1], None if label is None else label[:1])


def fastest(content: bytes, inputs: Inputs) -> float:
    """Return the milliseconds of a file's fastest call.

    Args:
        content: of the file.
        inputs: of one image.
    """
    run = session(content, Path("the rounded generator")).run
    times = []
    for _ in range(UNCOUNTED + CALLS):
        start = perf_counter()
        run(None, inputs)
        times.append(perf_counter() - start)
    return 1e3 * min(times[UNCOUNTED:])


def by_layer(content: bytes, inputs: Inputs, layers: Iterable[str]) -> dict[str, float]:
    """Return milliseconds of each layer, by onnxruntime's profile.

    Args:
        content: of a file whose nodes have the names of their layers.
        inputs: of one image.
        layers: their names.
    """
    with TemporaryDirectory() as folder:
        profiled = session(content, Path("the rounded generator"), profile=Path(folder) / "profile")
        for _ in range(UNCOUNTED + CALLS):
            profiled.run(None, inputs)
        events = json.loads(Path(profiled.end_profiling()).read_text(encoding="utf-8"))
    durations = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(KERNEL):
            durations[event["name"].removesuffix(KERNEL), event["args"]["node_index"]].append(event["dur"])
    longest_first = sorted(layers, key=len, reverse=True)
    total = dict.fromkeys(longest_first, 0.0)
    for (node, _), microseconds in durations.items():
        name = next((name for name in longest_first if re.match(rf"{re.escape(name)}($|[_/])", node)), None)
        if name is not None:
            total[name] += median(microseconds) / 1e3
    return total


def prices(layers: Iterable[str], timed: Callable[[int], Mapping[str, float]]) -> Table:
    """Return milliseconds of each layer at each number of bits.

    Args:
        layers: their names.
        timed: milliseconds of each layer of the file that has so many bits in all of them.
    """
    tables = {bits: timed(bits) for bits in WIDTHS}
    return {name: {bits: table[name] for bits, table in tables.items()} for name in layers}
