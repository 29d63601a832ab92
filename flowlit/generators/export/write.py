"""Export a generator: written, run by the program it is for, compared, and only then kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._support.files import building, file_hash, write_atomically
from ...networks import LowRank
from ...types import loaded_of
from ..core import NoiseToImages
from ..files import save
from .facts import facts_of
from .fold import Folded, folded
from .forms import Name, all_or_none, beside, check_free, form_of
from .onnx_file import onnx_bytes, session
from .parity import Images, Run, original, report_of
from .pipeline import WEIGHTS, check_pipeline, run_folder, write_folder
from .program import OUTPUTS, check_exportable
from .torch_file import check_compiler, compile_into, open_package, open_program, torch_bytes
from .web import MODEL, REPORT, check_visible, first_image, runtime_in, write_page

NUM = 64
"""Images of a comparison."""

FOLDERS = {"web": MODEL, "diffusers": WEIGHTS}
"""Forms that are folders, and the file of weights in each."""


class Exported(NamedTuple):
    """An export that was written."""

    into: Path
    report: dict[str, Any]
    fold: Folded


def check_target(into: Path, to: str) -> None:
    """Refuse a name that does not fit a form, an export, or a report beside it, that exists, and to compile
    without a compiler.

    Raises:
        FlowlitError: naming the file, or the compiler.
    """
    form_of(to, into)
    if to == "compiled":
        check_compiler()
    check_free((into, beside(into)))


def export(
    generator: NoiseToImages,
    to: Name,
    into: Path,
    *,
    licence: str | None = None,
    seed: int = 0,
    num: int = NUM,
    features: Any = None,
    runtime: Path | None = None,
) -> Exported:
    """Write a generator for another program, with a report of how near its images are.

    Args:
        generator: as ``flowlit.load`` returns it, on the CPU.
        to: the form, see ``FORMS``.
        into: the file, whose report is beside it, <into>.json; for "web" the folder.
        licence: of the weights; None takes that of the card beside the checkpoint.
        seed: of the noise of the comparison.
        num: images of it.
        features: an extractor in which both sets are compared, too.
        runtime: folder of onnxruntime-web's files, to be copied beside a page; None lets it fetch them.

    Raises:
        FlowlitError: if the file exists, the generator cannot be exported so, the disk is full, or the export
            makes other images. Nothing is left then.
    """
    check_target(into, to)
    place = None if runtime is None else runtime_in(runtime)
    if isinstance(generator.network, LowRank):
        generator = replace(generator, network=generator.network.merged())
    check_fit(generator, to)
    fold = folded(generator)
    facts = facts_of(generator, fold, licence)
    name = FOLDERS.get(to, into.name)
    with building(into, None if to in FOLDERS else name) as folder:
        file = folder / name
        more = WRITERS[to](fold.generator, facts, file)
        report = more | report_of(generator, RUNNERS[to](file), facts, num, seed, features)
        report |= {"form": to, "file": name, "sha256": file_hash(file), "bytes": _sizes(generator, file)}
        text = json.dumps(report, indent=1, allow_nan=False)
        if to == "web":
            write_page(folder, report, place, first_image(generator))
            (folder / REPORT).write_text(text, encoding="utf-8")
        else:
            with all_or_none(beside(into)):
                write_atomically(beside(into), text.encode())
    return Exported(into, report, fold)


def check_fit(generator: NoiseToImages, to: Name) -> None:
    """Refuse a generator that a form cannot hold, before any work.

    Raises:
        FlowlitError: naming the part.
    """
    if to == "diffusers":
        check_pipeline(generator)
    elif to != "safetensors":
        check_exportable(generator, images=to in ("onnx", "web"))
    if to == "web":
        check_visible(generator)


def checkpoint_size(generator: NoiseToImages) -> int | None:
    """Return the bytes of the file that a generator was loaded from; None where it is not there."""
    source = (loaded_of(generator.network) or {}).get("file")
    known = source is not None and Path(source).is_file()
    return Path(str(source)).stat().st_size if known else None


def _sizes(generator: NoiseToImages, file: Path) -> dict[str, int | None]:
    return {"checkpoint": checkpoint_size(generator), "export": file.stat().st_size}


def _write_weights(generator: NoiseToImages, facts: dict[str, Any], file: Path) -> dict[str, Any]:
    save(generator, file, {"export": facts})
    return {}


def _write_program(generator: NoiseToImages, facts: dict[str, Any], file: Path) -> dict[str, Any]:
    file.write_bytes(torch_bytes(generator, facts))
    return {}


def _write_package(generator: NoiseToImages, facts: dict[str, Any], file: Path) -> dict[str, Any]:
    compile_into(file, generator, facts)
    return {}


def _write_onnx(generator: NoiseToImages, facts: dict[str, Any], file: Path) -> dict[str, Any]:
    content, versions = onnx_bytes(generator, facts)
    file.write_bytes(content)
    return {"onnx": versions}


def _run_weights(file: Path) -> Run:
    from ..generator import load

    return original(load(file))


def run_program(file: Path, opened: Callable[[Path], tuple[Any, str]] = open_program) -> Run:
    """Return a program of PyTorch as a function, by whatever opens it."""
    module, _ = opened(file)

    def run(noise: Tensor, label: Tensor | None) -> Images:
        with torch.no_grad():
            return Images(*module(noise, *([] if label is None else [label])))

    return run


def run_onnx(file: Path) -> Run:
    """Return an ONNX file as a function, run by onnxruntime."""
    runtime = session(file.read_bytes(), file)

    names = [port.name for port in runtime.get_inputs()]

    def run(*values: Tensor | None) -> Images:
        given = zip(names, (value for value in values if value is not None), strict=True)
        inputs = {name: value.numpy() for name, value in given}
        return Images(*map(torch.from_numpy, runtime.run(list(OUTPUTS), inputs)))

    return run


WRITERS: dict[str, Callable[[NoiseToImages, dict[str, Any], Path], dict[str, Any]]] = {
    "safetensors": _write_weights,
    "torch": _write_program,
    "compiled": _write_package,
    "onnx": _write_onnx,
    "web": _write_onnx,
    "diffusers": write_folder,
}
RUNNERS: dict[str, Callable[[Path], Run]] = {
    "safetensors": _run_weights,
    "torch": run_program,
    "compiled": lambda file: run_program(file, open_package),
    "onnx": run_onnx,
    "web": run_onnx,
    "diffusers": run_folder,
}
