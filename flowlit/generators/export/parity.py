"""Comparison of an exported generator with the one that was trained: differences, sizes, latencies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._support.batch_invariance import BLOCK
from ..._support.formatting import aligned, duration, size
from ..._support.machine import hardware, versions
from ..._support.progress import Bar
from ...couplings import SeededNoise
from ...errors import FlowlitError
from ...metrics.base import FeatureExtractor, Reference
from ...metrics.speed import timed
from ..core import NoiseToImages
from ..sampling import noise_shape
from .enlarging import Enlarging, enlarges, inputs_to_compare
from .features import feature_distance

FAR = 0.05
"""Difference of x1 from which an export is refused: six levels of 255."""

CALLS = 5
"""Timed calls of each kind, of which the median counts."""


BATCH = 64
"""Images at a time."""


class Images(NamedTuple):
    """Images, and x1 before they were rounded."""

    images: Tensor  # (B, C, H, W) uint8
    x1: Tensor  # (B, c, h, w) float32


Run = Callable[..., Images]
"""(noise (B, c, h, w), label (B,) or None) -> images; or (noise, image (B, c, h, w), and t (B,))."""


class Sample(NamedTuple):
    """Inputs of both, and their results."""

    noise: Tensor
    label: Tensor | None
    before: Images
    after: Images
    more: tuple[Tensor, ...] = ()
    """Of networks that enlarge: image, and t if it is an input."""

    @property
    def inputs(self) -> tuple[Tensor | None, ...]:
        """Return what both are called with: noise (B, c, h, w), and labels (B,), None, or ``more``."""
        return (self.noise, *(self.more or (self.label,)))


def original(generator: NoiseToImages) -> Run:
    """Return the generator as it was loaded, as a function; a batch of one costs one evaluation."""
    alone = replace(generator, blocks=False)
    if enlarges(generator):
        program = Enlarging(alone).eval()
        return torch.no_grad()(lambda *inputs: Images(*program(*inputs)))

    def run(noise: Tensor, label: Tensor | None) -> Images:
        x1 = alone.solve(noise, {} if label is None else {"label": label}).x1
        return Images(alone.codec.decode(x1), x1)

    return torch.no_grad()(run)


def sampled(generator: NoiseToImages, run: Run, num: int, seed: int, batch: int = BATCH) -> Sample:
    """Return images of both for noise 0 … num - 1 of a seed, with balanced labels.

    Raises:
        FlowlitError: if the shapes of what comes out differ.
    """
    source = SeededNoise(noise_shape(generator), num, seed, generator.num_classes or 0)
    functions = (original(generator), run)
    noises = [source.batch(range(first, min(num, first + batch))) for first in range(0, num, batch)]
    bar = Bar(noises, desc="Images of both", unit=" batches", leave=False)
    more = [inputs_to_compare(generator, noise.x0) for noise in noises]
    pairs = [
        [function(noise.x0, *(extra or (noise.cond.get("label"),))) for function in functions]
        for noise, extra in zip(bar, more, strict=True)
    ]
    for before, after in pairs:
        _check_alike(before, after)
    labels = [noise.cond["label"] for noise in noises if noise.cond]
    before, after = (
        Images(torch.cat([pair[k].images for pair in pairs]), torch.cat([pair[k].x1 for pair in pairs]))
        for k in range(2)
    )
    x0 = torch.cat([noise.x0 for noise in noises])
    extra = tuple(torch.cat(values) for values in zip(*more, strict=True))
    return Sample(x0, torch.cat(labels) if labels else None, before, after, extra)


def _check_alike(before: Images, after: Images) -> None:
    for name, a, b in zip(Images._fields, before, after, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            raise FlowlitError(
                f"the export returns {name} {tuple(b.shape)} of {b.dtype}, and the checkpoint "
                f"{tuple(a.shape)} of {a.dtype}; it was not kept"
            )


def differences(sample: Sample, far: float = FAR) -> dict[str, Any]:
    """Return how far the results are from each other: x1, and levels of 255.

    Args:
        sample: of both.
        far: the difference of x1 from which an export is refused.

    Raises:
        FlowlitError: if they are others, and no matter of rounding.
    """
    x1 = (sample.before.x1.double() - sample.after.x1.double()).abs()
    levels = (sample.before.images.int() - sample.after.images.int()).abs()
    if not bool(x1.max() <= far):
        raise FlowlitError(
            f"the export makes other images: x1 differs by up to {float(x1.max()):.3g}; it was not kept; "
            "report this, please"
        )
    return {
        "x1": {"max": float(x1.max()), "mean": float(x1.mean())},
        "levels": {
            "max": int(levels.max()),
            "mean": float(levels.double().mean()),
            "different": float((levels > 0).double().mean()),
        },
        "noise_power": float(x1.square().sum() / sample.before.x1.double().square().sum().clamp_min(1e-300)),
    }


def latencies(generator: NoiseToImages, run: Run, sample: Sample) -> dict[str, dict[str, float]]:
    """Return median seconds of the checkpoint and the export, for one image and for ``BLOCK`` of them."""
    result = {}
    for rows in (1, BLOCK):
        places = torch.arange(rows) % len(sample.noise)
        inputs = [None if value is None else value[places] for value in sample.inputs]
        both = {"checkpoint": original(generator), "export": run}
        result[str(rows)] = {
            name: float(timed(partial(function, *inputs), CALLS).median) for name, function in both.items()
        }
    return result


def report_of(
    generator: NoiseToImages, run: Run, facts: dict[str, Any], num: int, seed: int, extractor: Any
) -> dict[str, Any]:
    """Return what an export is compared with its checkpoint, as plain data.

    Raises:
        FlowlitError: if it makes other images.
    """
    sample = sampled(generator, run, num, seed)
    compared = comparison(generator, run, sample, seed, extractor)
    return {"format": "flowlit-export-report", "version": 1, **compared, "facts": facts}


def comparison(
    generator: NoiseToImages,
    run: Run,
    sample: Sample,
    seed: int,
    extractor: FeatureExtractor | None = None,
    reference: Reference | None = None,
    far: float = FAR,
) -> dict[str, Any]:
    """Return how far a file's images are from its checkpoint's, and what both cost, as plain data.

    Args:
        generator: as it was loaded.
        run: the file.
        sample: of both, of noise of this seed.
        seed: of the noise.
        extractor: of features in which they are compared, too.
        reference: real images, from which both have a distance in these.
        far: see ``differences``.

    Raises:
        FlowlitError: if it makes other images.
    """
    parity = {"images": len(sample.noise), "seed": seed, **differences(sample, far)}
    extra = {} if extractor is None else {"features": feature_distance(extractor, sample, reference)}
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "parity": {**parity, **extra},
        "latency": latencies(generator, run, sample),
        "hardware": hardware(1, torch.device("cpu")),
        "versions": all_versions(),
    }


def all_versions() -> dict[str, str]:
    """Return the versions of what an export is made with."""
    installed = versions()
    for name in ("onnx", "onnxscript", "onnxruntime", "torchao"):
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed


def table(report: dict[str, Any], name: str) -> list[str]:
    """Return the lines that say what an export costs and how far it is from its checkpoint."""
    parameters = report["facts"]["parameters"]
    sizes = report["bytes"]
    rows = [["", "checkpoint", name]]
    rows.append(["parameters", *(f"{parameters[key]:,}" for key in ("checkpoint", "export"))])
    rows.append(["file", *("–" if sizes[key] is None else size(sizes[key]) for key in sizes)])
    for images, times in report["latency"].items():
        rows.append([f"{images} image{'s' * (images != '1')}", *map(duration, times.values())])
    parity = report["parity"]
    x1 = parity["x1"]
    levels = parity["levels"]
    lines = [
        *aligned(rows),
        "",
        f"{parity['images']} images of seed {parity['seed']}: x1 differs by {x1['max']:.2g} at most, "
        f"{x1['mean']:.2g} in the mean;",
        f"of 255 levels {levels['max']} at most, {levels['mean']:.2g} in the mean, "
        f"at {100 * levels['different']:.2g} % of the values",
    ]
    if "features" in parity:
        features = parity["features"]
        lines.append(
            f"{features['name']} features: Fréchet distance {features['frechet']:.3g} of the two sets, "
            f"features moved by {100 * features['moved']:.2g} %"
        )
    return lines
