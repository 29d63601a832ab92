"""Lines that are printed of a quantised generator."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from ..._support.formatting import aligned, duration, size
from ..export.forms import beside
from .write import Quantised, drawn


def decibels(harm: float | None) -> str:
    """Return the signal's power over the harm's, in decibels; more is better.

    >>> decibels(0.01), decibels(0.0), decibels(None)
    ('20.0', 'exact', '–')
    """
    if harm is None:
        return "–"
    return "exact" if harm <= 0 else f"{-10 * math.log10(harm):.1f}"


def layer_table(report: dict[str, Any]) -> list[str]:
    """Return a row for each layer: its weights, the harm of rounding it alone, and its bits."""
    layers = report["layers"]
    kinds = [kind for kind in ("pixels", "features") if layers[0]["harm"]["4"][kind] is not None]
    head = [f"{kind} at {bits}" for kind in kinds for bits in ("4", "8")]
    rows = [["layer alone, dB", "weights", *head, "bits"]]
    for layer in layers:
        harm = [decibels(layer["harm"][bits][kind]) for kind in kinds for bits in ("4", "8")]
        bits = "float32" if layer["bits"] == 32 else str(layer["bits"])
        rows.append([layer["name"], f"{layer['weights']:,}", *harm, bits])
    return aligned(rows)


def price(report: dict[str, Any]) -> Iterator[str]:
    """Yield the lines about sizes, times and quality."""
    sizes = report["bytes"]
    same = "float32 ONNX" if report["form"] == "onnx" else "float32 .pt2"
    rows = [["", "checkpoint", same, "quantised"]]
    rows.append(["file", *("–" if count is None else size(count) for count in sizes.values())])
    for images, times in report["latency"].items():
        shown = [duration(times[key]) for key in ("checkpoint", "float32", "export")]
        rows.append([f"{images} image{'s' * (images != '1')}", *shown])
    yield from aligned(rows)
    yield ""
    yield (
        f"{sizes['export']:,} bytes, {sizes['float32'] / sizes['export']:.2f} times smaller than the same in "
        f"float32"
    )
    parity = report["parity"]
    x1 = parity["x1"]
    levels = parity["levels"]
    yield (
        f"{parity['images']} images of seed {parity['seed']}: x1 differs by {x1['max']:.2g} at most, "
        f"{x1['mean']:.2g} in the mean ({decibels(parity['noise_power'])} dB);"
    )
    yield (
        f"of 255 levels {levels['max']} at most, {levels['mean']:.2g} in the mean, "
        f"at {100 * levels['different']:.2g} % of the values"
    )
    if "features" in parity:
        yield from _features(parity["features"])


def _features(features: dict[str, Any]) -> Iterator[str]:
    yield (
        f"{features['name']} features: Fréchet distance {features['frechet']:.3g} of the two sets, "
        f"features moved by {100 * features['moved']:.2g} %"
    )
    if real := features.get("reference"):
        change = 100 * (real["after"] / real["before"] - 1) if real["before"] > 0 else math.nan
        yield (
            f"distance from {real['file']}: {real['before']:.4g} before, {real['after']:.4g} after "
            f"({change:+.1f} %)"
        )
        if real["warning"]:
            yield real["warning"]


def _activations(layers: list[dict[str, Any]]) -> str:
    """Return in words how many activations of rounded layers have 8 bits."""
    ends = [bits for layer in layers if layer["bits"] != 32 for bits in layer["activations"].values()]
    count = ends.count(8)
    if count in (0, len(ends)):
        return "8 bits" if count else "float32"
    return f"8 bits, {len(ends) - count} of {len(ends)} that harm most float32"


def lines(done: Quantised) -> Iterator[str]:
    """Yield what is printed of a quantised generator."""
    result = done.report
    facts = result["facts"]
    yield f"time path: {done.fold.why}"
    yield f"licence: {facts['licence'] or 'not stated (--licence)'}"
    yield ""
    yield from _layers(result) if "layers" in result else _kept(facts["quantisation"]["float32"])
    yield ""
    yield from price(result)
    yield ""
    yield f"{done.into}: SHA-256 {result['sha256']}"
    if "layers" in result:
        yield f"{beside(done.into)}, {drawn(done.into)}: the comparison, and harm of each layer as a picture"
    else:
        yield f"{beside(done.into)}: the comparison"
        yield "run it: import torch, torchao; torch.export.load(file).module()"


def _layers(result: dict[str, Any]) -> Iterator[str]:
    """Yield the lines about layers of an ONNX file."""
    yield from layer_table(result)
    yield ""
    yield result["facts"]["quantisation"]["weights"]
    yield f"activations: {_activations(result['layers'])}"
    scales = result["coefficients"]["scales"]
    if scales:
        pairs = ", ".join(f"({a:g}, {b:g})" for a, b in scales)
        yield f"coefficients of state and velocity, {result['coefficients']['fit']}: {pairs}"


def _kept(names: list[str]) -> Iterator[str]:
    """Yield the line about layers of a program of torchao."""
    exceptions = f", but for {', '.join(names)}, which harm most: float32" if names else ""
    yield f"weights and activations of convolutions and linear layers: 8 bits by torchao{exceptions}"
