"""Description of an exported file, inside it: inputs and outputs, origin, licence, data and measurements."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..._support.places import to_share
from ..._version import __version__
from ...couplings.noise import GENERATOR
from ...data.provenance import trained_on
from ...metrics.report import reports_of
from ...networks.checkpoints.fingerprint import fingerprint
from ...networks.checkpoints.spec import spec, summarise
from ...types import evaluations_of, label_dropout_of, loaded_of
from ..core import NoiseToImages
from ..files import run_of
from .enlarging import enlarges, takes_t, task_facts
from .fold import Folded, times_of

FORMAT = "flowlit-export"
VERSION = 1


def facts_of(generator: NoiseToImages, fold: Folded, licence: str | None) -> dict[str, Any]:
    """Return what a file of a generator says of itself, as plain data.

    Args:
        generator: that was loaded.
        fold: the same as it is exported.
        licence: as it is given; None takes that of the card beside the checkpoint.
    """
    loaded = loaded_of(generator.network) or {}
    file = Path(loaded["file"]) if loaded.get("file") else None
    source = {"file": file and file.name, **{key: loaded.get(key) for key in ("sha256", "weights")}}
    steps = len(times_of(generator))
    classes = generator.num_classes or 0
    enlarging = {"super_resolution": task_facts(generator)} if enlarges(generator) else {}
    unlabelled = classes if classes and label_dropout_of(generator.network) else None
    return {
        "format": FORMAT,
        "version": VERSION,
        "flowlit": __version__,
        **interface(generator),
        **enlarging,
        "num_classes": classes,
        "class_names": generator.class_names,
        "no_label": unlabelled,
        "solver": spec(generator.solver),
        "codec": spec(generator.codec),
        "nfe": steps * evaluations_of(generator.network),
        "network": summarise(spec(generator.network)),
        "parameters": {"checkpoint": fold.before, "export": fold.after},
        "time": fold.why,
        "source": source if file else None,
        "licence": licence or (licence_beside(file) if file else None),
        "data": to_share(trained_on(generator.network)),
        "metrics": recorded(file, fingerprint(generator.network)) if file else [],
    }


def interface(generator: NoiseToImages) -> dict[str, Any]:
    """Return names, shapes, types and ranges of what goes in and comes out."""
    shape = list(generator.shape or ())
    image = list(generator.codec.decoded_shape(shape))
    inputs: dict[str, Any] = {
        "noise": {
            "shape": ["batch", *shape],
            "type": "float32",
            "values": "N(0, 1)",
            "generator": GENERATOR,
        }
    }
    if generator.num_classes:
        inputs["label"] = {"shape": ["batch"], "type": "int64", "values": [0, generator.num_classes - 1]}
    if enlarges(generator):
        image_values = "[-1, 1], brought to size by the degradation"
        inputs["image"] = {"shape": ["batch", *shape], "type": "float32", "values": image_values}
    if takes_t(generator):
        inputs["t"] = {"shape": ["batch"], "type": "float32", "values": [0, 1]}
    x1 = "about [-1, 1], before rounding" if generator.codec.pixels else "of the codec"
    outputs = {
        "images": {"shape": ["batch", *image], "type": "uint8", "values": [0, 255]},
        "x1": {"shape": ["batch", *shape], "type": "float32", "values": x1},
    }
    return {"inputs": inputs, "outputs": outputs}


def licence_beside(file: Path) -> str | None:
    """Return the licence that the card of a file states: <name>.md beside it, or README.md; None without."""
    for card in (file.with_suffix(".md"), file.parent / "README.md"):
        if not card.is_file():
            continue
        text = card.read_text(encoding="utf-8", errors="replace")[:100_000]
        stated = re.search(r"^\|?\s*licen[cs]e\s*[:|]\s*([^|\n]+?)\s*\|?\s*$", text, re.M | re.I)
        if stated is not None:
            return stated[1]
    return None


PROTOCOL = ("command", "date", "images", "precision", "noise", "features", "rounding", "hardware")
"""Of a report, beside its numbers."""


def recorded(file: Path, weights: str) -> list[dict[str, Any]]:
    """Return the measurements of these weights in reports in the run's folder and in those beside it.

    Args:
        file: that the weights were read from.
        weights: their hash.
    """
    return [
        {
            "report": f"{path.parent.name}/{path.name}",
            "metrics": report["metrics"],
            "spread": report.get("spread"),
            **{name: to_share(report[name]) for name in PROTOCOL if report.get(name) is not None},
        }
        for path, report in reports_of(run_of(file), weights).items()
    ]
