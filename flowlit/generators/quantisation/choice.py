"""The bits of each layer, for a size of the file, or the time of an image."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ..._support.formatting import size
from ...errors import FlowlitError
from .allocation import Table, allocate, least
from .integers import FLOAT
from .layers import Layers

WIDTHS = (4, 8, FLOAT)
"""Bits of weights among which a budget chooses."""

TRIES = 20
"""Choices of bits, of which each is measured."""

UNITS = {"b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


class Budget(NamedTuple):
    """Limit of a file; one of both is None, or both are."""

    size: int | None
    """Bytes of the file."""

    milliseconds: float | None
    """Time of one image on this machine."""


def budget_of(text: str) -> Budget:
    """Return the size or time that a text says.

    >>> budget_of("4MB").size, budget_of("150 kB").size, budget_of("2000").size
    (4000000, 150000, 2000)
    >>> budget_of("1.5ms").milliseconds
    1.5

    Raises:
        FlowlitError: for another text.
    """
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([kmg]?i?b|ms)?", text.strip().lower())
    number, unit = (0.0, "b") if match is None else (float(match[1]), match[2] or "b")
    if unit == "ms" and 0 < number < 1e9:
        return Budget(None, number)
    if unit in UNITS and 1 <= number * UNITS[unit] < 2**53:
        return Budget(int(number * UNITS[unit]), None)
    raise FlowlitError(f"--budget {text!r:.40}: expected a size, as 4MB or 150kB, or a time, as 2ms")


def prices(layers: Layers) -> dict[str, dict[int, float]]:
    """Return bytes of the weights of each layer, with their scales, at each number of bits."""
    table = {}
    for name, layer in layers.items():
        count = layer.weight.numel()
        scales = 4 * layer.weight.shape[0]
        table[name] = {bits: count * bits / 8 + (0 if bits == FLOAT else scales) for bits in WIDTHS}
    return table


def within_size(
    budget: int, harm: Table, layers: Layers, length: Callable[[Mapping[str, int]], int]
) -> dict[str, int]:
    """Return the bits of each layer for which a file has so many bytes at most.

    Args:
        budget: bytes of the file.
        harm: of each layer at each number of bits.
        layers: by name.
        length: bytes of the file with some bits.

    Raises:
        FlowlitError: for a budget below the least, which is named.
    """
    costs = prices(layers)
    floor = length(cheapest(costs))
    if budget < floor:
        raise FlowlitError(
            f"--budget {size(budget)} ({budget:,} bytes) is below the least: with 4 bits in all layers the "
            f"file has {floor:,} bytes; expected --budget {-(-floor // 1000)}kB or more"
        )
    return _within(budget, floor, harm, costs, length)


def within_time(
    budget: float, harm: Table, costs: Table, time: Callable[[Mapping[str, int]], float]
) -> dict[str, int]:
    """Return the bits of each layer for which one image takes so many milliseconds at most.

    Args:
        budget: milliseconds.
        harm: of each layer at each number of bits.
        costs: milliseconds of each layer at each number of bits.
        time: milliseconds of one image with some bits, measured.

    Raises:
        FlowlitError: for a budget below the least, which is named.
    """
    floor = time(cheapest(costs))
    if budget < floor:
        enough = float(f"{1.1 * floor:.2g}")
        raise FlowlitError(
            f"--budget {budget:g}ms is below the least: with the fastest bits of each layer one image takes "
            f"{floor:.3g} ms on this machine; expected --budget {enough:.7g}ms or more"
        )
    return _within(budget, floor, harm, costs, time)


def cheapest(costs: Table) -> dict[str, int]:
    """Return the bits that cost least, of each layer."""
    return {name: min(row, key=row.__getitem__) for name, row in costs.items()}


def _within(
    budget: float,
    floor: float,
    harm: Table,
    costs: Table,
    measure: Callable[[Mapping[str, int]], float],
) -> dict[str, int]:
    """Return bits whose measure is no more than the budget: the costs of layers need not be all of it."""
    room = budget - floor
    for _ in range(TRIES):
        bits = allocate(harm, costs, least(costs) + room)
        excess = measure(bits) - budget
        if excess <= 0:
            return bits
        room = max(room - excess, 0.0)
    return cheapest(costs)


def sizes_text(bits: Mapping[str, int], layers: Layers) -> str:
    """Return in words how many weights have how many bits.

    >>> from torch import nn
    >>> sizes_text({"a": 4, "b": 8}, {"a": nn.Linear(2, 3), "b": nn.Linear(1, 4)})
    '4 bits: 6 weights in 1 layer; 8 bits: 4 weights in 1 layer'
    """
    parts = []
    for width in sorted(set(bits.values())):
        names = [name for name, chosen in bits.items() if chosen == width]
        count = sum(layers[name].weight.numel() for name in names)
        word = "float32" if width == FLOAT else f"{width} bits"
        parts.append(f"{word}: {count:,} weights in {len(names)} layer{'s' * (len(names) != 1)}")
    return "; ".join(parts)
