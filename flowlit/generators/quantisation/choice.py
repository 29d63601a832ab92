"""The bits of each layer, for a size of the file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from ..._support.formatting import size
from ...errors import FlowlitError
from .allocation import Table, allocate, least
from .integers import FLOAT
from .layers import Layers

WIDTHS = (4, 8, FLOAT)
"""Bits of weights among which a budget chooses."""

UNITS = {"b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def bytes_of(text: str) -> int:
    """Return the number of bytes that a text says.

    >>> bytes_of("4MB"), bytes_of("150 kB"), bytes_of("2000")
    (4000000, 150000, 2000)

    Raises:
        FlowlitError: for another text.
    """
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([kmg]?i?b)?", text.strip().lower())
    unit = UNITS.get((match[2] or "b") if match else "")
    if match is None or unit is None or not 1 <= float(match[1]) * unit < 2**53:
        raise FlowlitError(f"--budget {text!r:.40}: expected a size, as 4MB or 150kB")
    return int(float(match[1]) * unit)


def prices(layers: Layers) -> dict[str, dict[int, float]]:
    """Return bytes of the weights of each layer, with their scales, at each number of bits."""
    table = {}
    for name, layer in layers.items():
        count = layer.weight.numel()
        scales = 4 * layer.weight.shape[0]
        table[name] = {bits: count * bits / 8 + (0 if bits == FLOAT else scales) for bits in WIDTHS}
    return table


def within(
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
    smallest = {name: min(row, key=row.__getitem__) for name, row in costs.items()}
    floor = length(smallest)
    if budget < floor:
        raise FlowlitError(
            f"--budget {size(budget)} ({budget:,} bytes) is below the least: with 4 bits in all layers the "
            f"file has {floor:,} bytes; expected --budget {_rounded_up(floor)} or more"
        )
    bits = smallest
    room = float(budget - floor)
    for _ in range(20):
        bits = allocate(harm, costs, least(costs) + room)
        excess = length(bits) - budget
        if excess <= 0:
            return bits
        room = max(room - excess, 0.0)
    return smallest


def _rounded_up(count: int) -> str:
    return f"{-(-count // 1000)}kB"


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
