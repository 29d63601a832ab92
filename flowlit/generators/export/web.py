"""A folder with one page that runs a generator in the browser that looks at it."""

from __future__ import annotations

import json
import shutil
from base64 import b64encode
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from ...data.degradations import Degradation
from ...errors import FlowlitError
from ...networks.checkpoints.spec import build
from ..core import NoiseToImages
from ..sampling import noise_of, noise_shape
from .enlarging import enlarges, line_of, takes_t, upscaler
from .examples import CREDIT, write_examples
from .parity import original

MODEL = "model.onnx"
CARD = "card.json"
"""What the page shows of the generator, and how it finds it."""
REPORT = "report.json"
"""Of the comparison with the checkpoint."""

FOLDER = "runtime"
"""Of onnxruntime-web's files, if they are given."""

BOTH = ("style.css", "controls.js", "generator.js", "noise.js", "card.js")
PAGE = ("index.html", "page.js", *BOTH)
UPSCALING = ("upscaling.html", "upscaling.js", "enlarge.js", *BOTH)
"""Files of a page that enlarges images, whose first becomes index.html."""

CDN = "https://cdn.jsdelivr.net/npm/onnxruntime-web@1.30.0/dist/"
"""Where a page fetches onnxruntime-web if its files are not given."""

RUNTIME = (
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
"""Of onnxruntime-web: first what runs on the processor, then what runs on the graphics processor."""


def runtime_in(folder: Path) -> Path:
    """Return the folder that has onnxruntime-web's files: this one, its dist, or that of its package.

    Raises:
        FlowlitError: if a file is missing.
    """
    places = (folder, folder / "dist", folder / "package" / "dist", folder / "onnxruntime-web" / "dist")
    place = next((place for place in places if (place / RUNTIME[0]).is_file()), folder)
    absent = [name for name in RUNTIME if not (place / name).is_file()]
    if absent:
        raise FlowlitError(
            f"--runtime {folder} lacks {absent[0]}; expected the folder dist of the npm package "
            "onnxruntime-web (npm pack onnxruntime-web, and unpack it)"
        )
    return place


def check_visible(generator: NoiseToImages) -> None:
    """Refuse images that a page cannot show.

    Raises:
        FlowlitError: for other channels than 1 or 3, and degradations that enlarge in a way of their own.
    """
    if enlarges(generator):
        line_of(upscaler(generator).degradation)
    channels = generator.codec.decoded_shape(noise_shape(generator))[0]
    if channels not in (1, 3):
        raise FlowlitError(f"images have {channels} channels; a page shows 1 (grey) or 3 (RGB)")


LARGEST = 100_000
"""Bytes of the image in a card that a browser's first one is compared with, at most."""


def first_image(generator: NoiseToImages) -> str | None:
    """Return the bytes of the image of seed 0, and of class 0 or of a grey image, as base64.

    None if they are too many.
    """
    noise = noise_of(generator, [0]).to(generator.device)
    if enlarges(generator):
        t = (torch.ones(1),) if takes_t(generator) else ()
        image = original(generator)(noise, torch.zeros_like(noise), *t).images[0]
    else:
        image = generator(noise, labels=0 if generator.num_classes else None)[0]
    return b64encode(image.cpu().numpy().tobytes()).decode() if image.numel() <= LARGEST else None


def write_page(folder: Path, report: dict[str, Any], runtime: Path | None, first: str | None = None) -> None:
    """Write a page into a folder that has the ONNX file already.

    Args:
        folder: to be served by any host of files.
        report: of the comparison.
        runtime: folder of onnxruntime-web's files; None lets the page fetch them from ``CDN``.
        first: see ``first_image``.
    """
    task = report["facts"].get("super_resolution")
    for name in UPSCALING if task else PAGE:
        content = files(__package__).joinpath("page", name).read_bytes()
        (folder / name.replace(UPSCALING[0], PAGE[0])).write_bytes(content)
    if runtime is not None:
        (folder / FOLDER).mkdir()
        for name in RUNTIME:
            shutil.copyfile(runtime / name, folder / FOLDER / name)
    parts = {key: report[key] for key in ("facts", "parity", "sha256", "onnx")}
    card = {
        **parts,
        "bytes": report["bytes"]["export"],
        "file": MODEL,
        "first": first,
        "runtime": CDN if runtime is None else f"./{FOLDER}/",
    }
    if task:
        degradation = build(task["degradation"], Degradation)
        channels = report["facts"]["outputs"]["images"]["shape"][1]
        card["examples"] = write_examples(folder, degradation, task["tile"], channels)
        card["credit"] = CREDIT
        card["facts"] = {**card["facts"], "super_resolution": {**task, "line": line_of(degradation)}}
    (folder / CARD).write_text(json.dumps(card, indent=1), encoding="utf-8")
