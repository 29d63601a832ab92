"""Harm of each layer to the images when it alone is rounded: at the pixels, and in features, apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from torch import Tensor

from ..._support.progress import Bar
from .allocation import Table
from .integers import FLOAT, NOTHING
from .layers import Layers, Ranges, rounding, rounding_activations, rounds_output

Part = TypeVar("Part", str, tuple[str, str])


class Result(NamedTuple):
    """Ends of some noise, and the features of their images."""

    x1: Tensor  # (N, c, h, w) float32
    features: Tensor | None  # (N, d)


class Harm(NamedTuple):
    """Power of the change that rounding one layer alone makes, relative to the power of the signal."""

    pixels: float
    features: float | None


Sensitivity = dict[str, dict[int, Harm]]
"""By layer and bits."""


def noise_power(changed: Tensor, original: Tensor, centre: bool = False) -> float:
    """Return Σ(changed - original)² / Σ original², (N, …), of which 10^(-dB / 10) is another name.

    Args:
        changed: of the rounded network.
        original: of the other.
        centre: take the mean of all rows from the original first, for features, whose mean says nothing.
    """
    before = original.double()
    signal = before - before.mean(0) if centre else before
    return float((changed.double() - before).square().sum() / signal.square().sum().clamp_min(1e-300))


def harm_of(changed: Result, original: Result) -> Harm:
    """Return how far a result is from the original."""
    features = None
    if changed.features is not None and original.features is not None:
        features = noise_power(changed.features, original.features, centre=True)
    return Harm(noise_power(changed.x1, original.x1), features)


def sensitivity(
    layers: Layers,
    run: Callable[[], Result],
    ranges: Mapping[str, Ranges],
    widths: Sequence[int],
) -> Sensitivity:
    """Return the harm of each layer alone at each number of bits.

    Args:
        layers: of the network.
        run: the network on the same noise each time.
        ranges: of activations; empty leaves them as they are.
        widths: numbers of bits, of which 32 is no harm.
    """
    original = run()
    table: Sensitivity = {name: {} for name in layers}
    tasks = [(name, bits) for name in layers for bits in widths]
    for name, bits in Bar(tasks, desc="Sensitivity of layers", unit=" widths", leave=False):
        if bits == FLOAT:
            table[name][bits] = Harm(0.0, None if original.features is None else 0.0)
            continue
        with rounding(layers, {name: bits}, ranges):
            table[name][bits] = harm_of(run(), original)
    return table


LIMIT = 10**-3.5
"""Sum of harm at the pixels, of activations and of uniform bits: 35 dB, about one level of 255."""


def calm(layers: Layers, run: Callable[[], Result], ranges: Mapping[str, Ranges]) -> dict[str, Ranges]:
    """Return ranges without those of the few activations that harm most, which stay float32.

    What goes into each layer, and what comes out of it, is rounded alone; the sum of harm that is left is
    ``LIMIT`` at most. Such are, where skips carry the image, what these carry, and both ends of a network.

    Args:
        layers: of the network.
        run: the network on the same noise each time.
        ranges: of its activations.
    """
    original = run()
    parts = [(name, "inputs") for name in layers]
    parts += [(name, "outputs") for name, layer in layers.items() if rounds_output(layer, 8)]
    harm = {}
    for name, end in Bar(parts, desc="Sensitivity of activations", unit=" ends", leave=False):
        alone = Ranges(**{end: getattr(ranges[name], end)})
        with rounding_activations(layers[name], alone, ends=True):
            harm[name, end] = noise_power(run().x1, original.x1)
    left = most_harmful(harm, LIMIT)
    ends = ("inputs", "outputs")
    return {
        name: Ranges(*(NOTHING if (name, end) in left else getattr(place, end) for end in ends))
        for name, place in ranges.items()
    }


def most_harmful(harm: Mapping[Part, float], limit: float) -> set[Part]:
    """Return the fewest parts without which the sum of harm is a limit at most.

    >>> sorted(most_harmful({"a": 5, "b": 1, "c": 3, "d": 1}, 2.5))
    ['a', 'c']
    """
    parts = sorted(harm, key=harm.__getitem__)
    count = 0
    total = 0.0
    while count < len(parts) and total + harm[parts[count]] <= limit:
        total += harm[parts[count]]
        count += 1
    return set(parts[count:])


def weighed(table: Sensitivity, by: str) -> Table:
    """Return one number of harm for each layer and width.

    Args:
        table: of both kinds of harm.
        by: "pixels", "features", or "both": the shares that a layer has in the sum of each kind.
    """
    if by == "pixels":
        return {name: {bits: harm.pixels for bits, harm in row.items()} for name, row in table.items()}
    if by == "features":
        return {
            name: {bits: harm.features or 0.0 for bits, harm in row.items()} for name, row in table.items()
        }
    parts = [weighed(table, kind) for kind in ("pixels", "features")]
    totals = [sum(max(row.values()) for row in part.values()) or 1.0 for part in parts]
    return {
        name: {
            bits: sum(part[name][bits] / total for part, total in zip(parts, totals, strict=True))
            for bits in row
        }
        for name, row in table.items()
    }
