"""``flowlit export``: a generator as a file for other programs, compared with its checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from .._support.extras import needed
from ..errors import FlowlitError
from ..ranges import PositiveInt, Seed

ONNX = ("onnx", "onnxscript", "onnxruntime")
PACKAGES = {"onnx": ONNX, "web": ONNX, "diffusers": ("diffusers",)}
"""What a form needs beside flowlit."""


def export(
    checkpoint: str,
    *,
    to: Literal["safetensors", "torch", "compiled", "onnx", "web", "diffusers"],
    into: Path,
    weights: str = "ema",
    solver: str | None = None,
    nfe: PositiveInt | None = None,
    licence: str | None = None,
    features: str | None = None,
    num: PositiveInt = 64,
    seed: Seed = 0,
    runtime: Path | None = None,
    base: str | None = None,
    onto: str | None = None,
) -> Iterator[str]:
    """Write a generator for other programs: noise and labels, or images to enlarge, go in.

    All steps of the solver and the codec are inside; a network that is called at one time loses its time
    path. Each export is run, and kept if its images are the checkpoint's; see <into>.json beside it.

    Args:
        checkpoint: a run's folder, or a file of weights
        to: safetensors (for flowlit.load), torch (.pt2, torch.export), compiled (.pt2, a library of
            AOTInductor for this kind of processor), onnx, web: a folder with a page, or diffusers: a pipeline
        into: the file, or the folder, to write
        weights: ema, raw, or the name of another average
        solver: as Heun or Adams(order=2); that of the checkpoint by default
        nfe: evaluations of the network for an image, from which steps follow
        licence: of the weights, for the metadata; by default that of the card beside the checkpoint
        features: in which both sets of images are compared, too: EfficientNetLite0, or a YAML with class_path
        num: images to compare
        seed: of their noise
        runtime: of a page: folder of the npm package onnxruntime-web; otherwise the page has it from a CDN
        base: with --onto: the pipeline whose U-Net the training began with
        onto: a fine-tuned pipeline, to whose U-Net what training changed is added

    Raises:
        FlowlitError: for files that exist, parts that the form lacks, and exports that make other images.
    """
    from ..generators.export import write

    _check_options(to, runtime, base, onto)
    write.check_target(into, to)
    extractor = extractor_of(features)
    if to == "compiled":
        yield "C++ is written and compiled, which takes minutes"
    generator = _loaded(checkpoint, weights, solver, nfe, base, onto)
    options: dict[str, Any] = {"licence": licence, "num": num, "seed": seed, "runtime": runtime}
    yield from lines(write.export(generator, to, into, features=extractor, **options))


def _check_options(to: str, runtime: Path | None, base: str | None, onto: str | None) -> None:
    if runtime is not None and to != "web":
        raise FlowlitError(f"--runtime is for --to web; this is --to {to}")
    if (base is None) != (onto is None) or (onto is not None and to != "diffusers"):
        raise FlowlitError("--base and --onto are for --to diffusers, and belong together")
    for package in PACKAGES.get(to, ()):
        needed(package)


def _loaded(
    checkpoint: str, weights: str, solver: str | None, nfe: int | None, base: str | None, onto: str | None
) -> Any:
    """Return the generator that is meant, its change added to ``onto`` where that is given."""
    from .sample.solver import load_with

    generator = load_with(checkpoint, weights, solver, nfe)
    if base is None or onto is None:
        return generator
    from ..generators.merging import merged

    return merged(generator, base, onto)


def lines(done: Any) -> Iterator[str]:
    """Yield what is printed of an export."""
    from ..generators.export.forms import beside
    from ..generators.export.parity import table

    facts = done.report["facts"]
    saved = f", {100 * done.fold.removed:.2f} % of the parameters" if done.fold.removed else ""
    yield f"time path: {done.fold.why}{saved}"
    if versions := done.report.get("onnx"):
        yield f"ONNX: opset {versions['opset']}, IR {versions['ir']}, batches of any size"
    yield f"licence: {facts['licence'] or 'not stated (--licence)'}"
    yield ""
    yield from table(done.report, done.into.name)
    yield ""
    yield f"{done.into}: SHA-256 {done.report['sha256']}"
    if done.report["form"] == "web":
        yield f"look at it: python -m http.server --directory {done.into} --bind 127.0.0.1"
    else:
        yield f"{beside(done.into)}: the comparison"


def extractor_of(features: str | None) -> Any:
    """Return an extractor by the name of its class, or as a YAML describes it; None without.

    Raises:
        FlowlitError: naming the option, if there is none of that name, or its weights are not there.
    """
    if features is None:
        return None
    from .._support.suggestions import did_you_mean
    from ..metrics import FeatureExtractor
    from ..networks.checkpoints.spec import build
    from ._yaml import read_yaml

    if features.endswith((".yaml", ".yml")):
        described = read_yaml(Path(features))
    else:
        known = _extractors()
        if "." not in features and features not in known:
            raise FlowlitError(
                f"--features {features}: there is none of that name{did_you_mean(features, known)}; expected "
                f"{', '.join(known)}, or a YAML with class_path and init_args"
            )
        described = {"class_path": features if "." in features else f"flowlit.metrics.{features}"}
    try:
        extractor = build(described, FeatureExtractor)
    except FlowlitError as error:
        raise FlowlitError(f"--features {features}: {error}") from error
    if lacking := extractor.missing():
        raise FlowlitError(f"--features {features}: {lacking}")
    return extractor


def _extractors() -> list[str]:
    """Return the names of the extractors of ``flowlit.metrics`` that need no arguments."""
    from inspect import Parameter, isabstract, signature

    from .. import metrics

    kinds = {name: getattr(metrics, name) for name in metrics.__all__}
    return [
        name
        for name, kind in kinds.items()
        if isinstance(kind, type)
        and issubclass(kind, metrics.FeatureExtractor)
        and not isabstract(kind)
        and all(each.default is not Parameter.empty for each in signature(kind).parameters.values())
    ]
