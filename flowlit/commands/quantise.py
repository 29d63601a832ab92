"""``flowlit quantise``: a generator with integers, for a size that is given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from ..errors import FlowlitError
from ..ranges import PositiveInt, Seed


def quantise(
    checkpoint: str,
    *,
    into: Path,
    budget: str | None = None,
    bits: Literal[4, 8] | None = None,
    activations: Literal[8, 32] = 8,
    by: Literal["pixels", "features", "both"] | None = None,
    coefficients: Literal["features", "paired", "moments", "none"] | None = None,
    weights: str = "ema",
    solver: str | None = None,
    licence: str | None = None,
    features: str | None = None,
    reference: Path | None = None,
    calibrate: PositiveInt = 1024,
    num: PositiveInt = 64,
    seed: Seed = 0,
) -> Iterator[str]:
    """Write a generator whose weights have 8 or 4 bits, and its activations 8, as an ONNX file.

    Each layer is rounded alone first: --budget chooses the bits that harm least. <into>.json has the
    comparison, <into>.png a picture. A .pt2 is for PyTorch with torchao, in 8 bits.

    Args:
        checkpoint: a run's folder, or a file of weights
        into: the file to write, which ends in .onnx, or in .pt2
        budget: of 4, 8 or 32 bits for each layer: size of the file at most, as 4MB or 150kB, or time of one
            image on this machine, as 2ms
        bits: of all layers; 8 without --budget
        activations: 32 leaves them as they are, for runtimes that do not compute with integers
        by: harm that --budget keeps small; in features, too, where these are given
        coefficients: two numbers a step that make up for the rounding (docs/deployment.md)
        weights: ema, raw, or the name of another average
        solver: as Euler(steps=2); that of the checkpoint by default
        licence: of the weights, for the metadata; by default that of the card beside the checkpoint
        features: class of flowlit.metrics, or YAML of one, in which harm and distance are measured
        reference: npz of real images in these features, for distances from them
        calibrate: images from which ranges of activations follow
        num: images to compare, of other noise
        seed: of their noise

    Raises:
        FlowlitError: for files that exist, budgets below the least, which is named, and no graph.
    """
    rounding = (activations, by, coefficients, calibrate, num, seed)
    yield from written(
        checkpoint, into, budget, bits, (weights, solver), rounding, (licence, features, reference)
    )


def written(
    checkpoint: str,
    into: Path,
    budget: str | None,
    bits: Literal[4, 8] | None,
    chosen: tuple[str, str | None],
    rounding: tuple[Any, ...],
    others: tuple[str | None, str | None, Path | None],
) -> Iterator[str]:
    """Write a quantised generator, and yield the lines about it; see ``quantise``."""
    from ..generators.quantisation import Settings
    from ..generators.quantisation import quantise as write
    from ..generators.quantisation.choice import Budget, budget_of
    from ..generators.quantisation.lines import lines
    from ..generators.quantisation.write import check_target
    from ..metrics.reference import read_reference
    from .export import extractor_of
    from .sample.solver import load_with

    check_target(into)
    if budget is not None and bits is not None:
        raise FlowlitError("--bits gives all layers the same, and --budget chooses; leave one out")
    most = Budget(None, None) if budget is None else budget_of(budget)
    settings = Settings(*most, bits or 8, *rounding)
    licence, features, reference = others
    real = None if reference is None else read_reference(reference)
    extractor = extractor_of(features)
    generator = load_with(checkpoint, *chosen, None)
    yield from lines(write(generator, into, settings, licence=licence, features=extractor, reference=real))
