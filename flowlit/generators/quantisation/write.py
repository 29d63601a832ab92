"""A generator with integers in a file: chosen, written, run, compared, and only then kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..._support.files import building, file_hash, write_atomically, write_figure
from ...errors import FlowlitError
from ...metrics.base import FeatureExtractor, Reference
from ...metrics.protocol import check_dimension, check_reference
from ..core import NoiseToImages
from ..export.facts import facts_of
from ..export.fold import Folded, folded
from ..export.forms import all_or_none, beside, check_free
from ..export.parity import Run, comparison, latencies, sampled
from ..export.program import check_exportable, traced
from ..export.torch_file import program_bytes
from ..export.write import checkpoint_size, run_onnx, run_program
from ..sampling import noise_shape
from .picture import picture
from .pt2e import check_settings, kept_layers, with_integers
from .settings import Settings
from .subject import Subject
from .work import Work


class Quantised(NamedTuple):
    """A rounded generator that was written."""

    into: Path
    report: dict[str, Any]
    fold: Folded


def check_target(into: Path) -> None:
    """Refuse other endings than .onnx and .pt2, and files that exist.

    Raises:
        FlowlitError: naming the file.
    """
    if into.suffix not in (".onnx", ".pt2"):
        raise FlowlitError(
            f"--into {into}: a quantised generator is an ONNX file or a program of torch.export, and ends in "
            ".onnx or .pt2"
        )
    check_free((into, beside(into), drawn(into)))


def check_steps(subject: Subject, settings: Settings) -> None:
    """Refuse coefficients that the steps of a solver cannot have.

    Raises:
        FlowlitError: naming the solver.
    """
    steps = subject.steps()
    if settings.fit in ("paired", "moments", "features") and not steps:
        solver = subject.generator.solver
        raise FlowlitError(
            f"--coefficients are those of Euler's steps, and the solver is {solver}; give none"
        )
    if settings.fit == "features" and steps > 1:
        raise FlowlitError(f"--coefficients features are for one step, and there are {steps}; give paired")


def drawn(into: Path) -> Path:
    """Return the file of the picture beside a quantised generator."""
    return into.with_name(f"{into.name}.png")


def quantise(
    generator: NoiseToImages,
    into: Path,
    settings: Settings,
    *,
    licence: str | None = None,
    features: FeatureExtractor | None = None,
    reference: Reference | None = None,
) -> Quantised:
    """Write a generator with integers, with a report beside it, and beside an ONNX file a picture.

    Args:
        generator: as ``flowlit.load`` returns it, on the CPU.
        into: the file, which ends in .onnx, or in .pt2 for PyTorch with torchao.
        settings: how it is rounded.
        licence: of the weights; None takes that of the card beside the checkpoint.
        features: an extractor in which harm and distances are measured, too.
        reference: real images in these features, from which both sets have a distance.

    Raises:
        FlowlitError: if a file exists, the generator has no graph, the budget is below the least, or the
            disk is full. Nothing is left then.
    """
    check_target(into)
    if into.suffix == ".pt2":
        check_settings(settings)
    check_exportable(generator)
    check_features(generator, settings, features, reference)
    fold = folded(generator)
    subject = Subject(fold.generator, settings.calibrate, settings.seed + 1, features)
    facts = facts_of(generator, fold, licence)
    write = _write_program if into.suffix == ".pt2" else _write_onnx
    with building(into, into.name) as folder:
        file = folder / into.name
        floats = folder / f"float32{into.suffix}"
        decided = write(subject, settings, facts, file, floats)
        report = _report(generator, file, floats, settings, features, reference)
        report |= {"file": into.name, **decided}
        with all_or_none(beside(into), drawn(into)):
            write_atomically(beside(into), json.dumps(report, indent=1, allow_nan=False).encode())
            if "layers" in report:
                write_figure(drawn(into), picture(report))
    return Quantised(into, report, fold)


def check_features(
    generator: NoiseToImages,
    settings: Settings,
    features: FeatureExtractor | None,
    reference: Reference | None,
) -> None:
    """Refuse settings that need features without any, and a reference that is of others.

    Raises:
        FlowlitError: naming the option.
    """
    wants = settings.by in ("features", "both") or settings.fit == "features" or reference is not None
    if features is None and wants:
        raise FlowlitError("harm, coefficients and distances in features need --features; or leave these out")
    if features is not None and reference is not None:
        check_reference(reference, features, generator.codec.decoded_shape(noise_shape(generator)))
        check_dimension(reference, _dimension(generator, features))


def _dimension(generator: NoiseToImages, features: FeatureExtractor) -> int:
    shape = generator.codec.decoded_shape(noise_shape(generator))
    return features(torch.zeros(1, *shape, dtype=torch.uint8)).shape[1]


def _write_onnx(
    subject: Subject, settings: Settings, facts: dict[str, Any], file: Path, floats: Path
) -> dict[str, Any]:
    """Write an ONNX file with integers, and one of floats; return what was decided, as plain data."""
    check_steps(subject, settings)
    work = Work(subject, settings, facts)
    file.write_bytes(work.file())
    floats.write_bytes(work.floats())
    return {
        "form": "onnx",
        "facts": work.described(work.bits, work.scales),
        "budget": work.settings.budget,
        "budget_ms": work.settings.milliseconds,
        "by": work.by,
        "coefficients": {"fit": work.fit if work.scales else "none", "scales": work.scales},
        "layers": work.rows(),
    }


def _write_program(
    subject: Subject, settings: Settings, facts: dict[str, Any], file: Path, floats: Path
) -> dict[str, Any]:
    """Write a program with integers, and one of floats; return what was decided, as plain data."""
    floating = kept_layers(subject)
    program = traced(subject.generator)
    integers = with_integers(program, subject, floating)
    calibrated = {"images": settings.calibrate, "seed": settings.seed + 1}
    rounded = {
        "weights": 8,
        "activations": 8,
        "float32": floating,
        "by": "torchao",
        "calibrated_on": calibrated,
    }
    described = {**facts, "quantisation": rounded}
    file.write_bytes(program_bytes(integers, described))
    floats.write_bytes(program_bytes(program, facts))
    return {"form": "torch", "facts": described}


RUNNERS: dict[str, Callable[[Path], Run]] = {".onnx": run_onnx, ".pt2": run_program}
"""By the ending of a file."""


def _report(
    generator: NoiseToImages,
    file: Path,
    floats: Path,
    settings: Settings,
    features: FeatureExtractor | None,
    reference: Reference | None,
) -> dict[str, Any]:
    """Return what the file is compared with: the checkpoint, and the same file of floats."""
    open_file = RUNNERS[file.suffix]
    run = open_file(file)
    sample = sampled(generator, run, settings.num, settings.seed)
    compared = comparison(generator, run, sample, settings.seed, features, reference, inf)
    for number, times in latencies(generator, open_file(floats), sample).items():
        compared["latency"][number]["float32"] = times["export"]
    return {
        "format": "flowlit-quantisation-report",
        "version": 1,
        **compared,
        "bytes": {
            "checkpoint": checkpoint_size(generator),
            "float32": floats.stat().st_size,
            "export": file.stat().st_size,
        },
        "sha256": file_hash(file),
    }
