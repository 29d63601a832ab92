"""The description of a store of pairs (``manifest.json``); see docs/couplings.md. Read without torch, so that
it is instant.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..._support.names import in_current_names
from ...errors import FlowlitError
from .plan import plan
from .schema import MANIFEST, unfit_conditions

NAME = "manifest.json"
SHOWN = 12
"""Entries of a list that a message shows."""


IDENTITY = (
    "direction",
    "origin",
    "shape",
    "x0",
    "x1",
    "labels",
    "noise",
    "images",
    "teacher",
    "solver",
    "shard_size",
)
"""What must agree for two sets of pairs to be parts of one."""


OPTIONAL = ("codec", "conditions", "times")
"""Likewise, but absent where there is nothing to say: x1 are pixels, labels are the only condition, and there
are no states between the ends.
"""


CLASSES = "classes"
"""Names of class 0, 1, …; must agree where two sets have them."""


def read_manifest(folder: str | Path, whole: bool = True) -> dict[str, Any]:
    """Read the manifest of a store.

    Args:
        folder: of the store.
        whole: refuse one that calls itself complete and is not, or lists rows twice; ``verify`` reports that.

    Raises:
        FlowlitError: if there is none, or it is unsound; see ``Manifest``.
    """
    path = Path(folder) / NAME
    if not os.path.exists(path):
        raise FlowlitError(
            f"no couplings in {folder} (expected {NAME} and shards). Make them first: flowlit couple -c "
            f"experiments/couple_….yaml --store {folder}"
        )
    manifest = MANIFEST.read(path)
    if whole:
        check_complete(path, manifest)
        check_ranges([folder], [manifest])
    return manifest


def check_complete(path: Path, manifest: dict[str, Any]) -> None:
    """Refuse a manifest that calls itself complete and lacks shards.

    Raises:
        FlowlitError: naming their number.
    """
    expected = len(plan(manifest["counts"], manifest["shard_size"]))
    missing = expected - len(manifest["shards"])
    if manifest["complete"] and missing:
        raise FlowlitError(
            f"{path} is called complete, but lacks {missing} of {expected} shards; make the couplings again"
        )


def check_ranges(folders: Sequence[str | Path], manifests: Sequence[dict[str, Any]]) -> None:
    """Refuse stores, or a single one, that hold the same pairs twice.

    Raises:
        FlowlitError: naming seed and indices.
    """
    ranges = sorted(
        (entry["seed"], *entry["index"], str(folder))
        for folder, manifest in zip(folders, manifests, strict=True)
        for entry in manifest["shards"]
    )
    for (seed, _, last, where), (other, start, end, there) in itertools.pairwise(ranges):
        if seed == other and start <= last:
            raise FlowlitError(
                f"{where} and {there} hold the same pairs (seed {seed}, indices {start} … {min(last, end)}); "
                "make one of them with another --seed"
            )


def check_conditions(names: Iterable[str], where: str) -> None:
    """Refuse names of conditions that could not be those of tensors beside the others, or of files.

    Raises:
        FlowlitError: naming them.
    """
    if unfit := unfit_conditions(names):
        raise FlowlitError(f"{where}: {unfit}")


def differences(
    known: dict[str, Any],
    wanted: dict[str, Any],
    keys: tuple[str, ...] = (*IDENTITY, *OPTIONAL, CLASSES),
    words: tuple[str, str] = ("there", "now"),
) -> list[str]:
    """List in words where two manifests describe other pairs."""
    return [
        f"{key}: {_short(known.get(key))} {words[0]}, {_short(wanted.get(key))} {words[1]}"
        for key in keys
        if known.get(key) != wanted.get(key)
        and not (key == CLASSES and None in (known.get(key), wanted.get(key)))
        and in_current_names(known.get(key)) != in_current_names(wanted.get(key))
    ]


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(
            f"{key} {str(entry)[:12] if key == 'sha256' else _short(entry)}" for key, entry in value.items()
        )
    if isinstance(value, list) and len(value) > SHOWN:
        return f"[{', '.join(map(str, value[:SHOWN]))}, … {len(value)} in all]"
    return str(value)


def describe(folder: str | Path, manifest: dict[str, Any]) -> str:
    """Format a manifest as a table."""
    shards = manifest["shards"]
    shape = "×".join(map(str, manifest["shape"]))
    expected = plan(manifest["counts"], manifest["shard_size"])
    rows = {
        "pairs": f"{manifest['counts'][-1]:,} of {shape}{'' if manifest['complete'] else ', NOT FINISHED'}"
    }
    rows["direction"] = f"{manifest['direction']}; made from {manifest['origin']}"
    rounding = manifest.get("rounding", {})
    for end in ("x0", "x1"):
        dtype = "made again from the seed" if manifest[end] == "seed" else manifest[end]
        rows[end] = dtype + _rounding_note(rounding.get(end))
    if times := manifest.get("times"):
        rows["states"] = f"{len(times)}, x1 among them" + _rounding_note(rounding.get("path"))
    if "range" in manifest:
        rows["range of x1"] = f"{manifest['range'][0]} … {manifest['range'][1]}"
    rows["labels"] = _short(manifest["labels"]) if manifest["labels"] else "none"
    rows["noise"] = _short(manifest["noise"]) + f"; seeds {', '.join(map(str, manifest['seeds']))}"
    for key in (CLASSES, "images", "data", *OPTIONAL, "teacher", "checkpoint", "solver"):
        if manifest.get(key):
            rows[key] = _short(manifest[key])
    if nfe := manifest.get("nfe"):
        rows["NFE"] = f"{nfe['mean']:.2f} on average, {nfe['min']} … {nfe['max']}"
    size = sum(entry["bytes"] for entry in shards) / 1e6
    rows["shards"] = (
        f"{len(shards)} of {len(expected)} listed, up to {manifest['shard_size']:,} pairs, {size:,.1f} MB"
    )
    rows["flowlit"] = manifest["flowlit"]
    width = max(map(len, rows))
    return "\n".join([str(folder), *(f"  {key.ljust(width)}  {value}" for key, value in rows.items())])


def _rounding_note(error: dict[str, float] | None) -> str:
    if not error or not error["max"]:
        return ""
    return f", rounded by {error['rms']:.2g} (rms), {error['max']:.2g} at most"


def identity_key(manifest: dict[str, Any]) -> str:
    """Hash of what must agree for shards to be parts of one set; each has it, so that a file of another set
    is not taken for one of this.
    """
    facts = [manifest[key] for key in IDENTITY if key != "labels"]
    facts += [manifest[key] for key in OPTIONAL if key in manifest]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def sums(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Summary of all shards for the manifest: NFE, range of x1, rounding of both ends."""
    rows = sum(entry["rows"] for entry in entries)
    nfe = [entry["nfe"] for entry in entries]
    return {
        "count": rows,
        "nfe": {
            "mean": sum(n["sum"] for n in nfe) / rows,
            "min": min(n["min"] for n in nfe),
            "max": max(n["max"] for n in nfe),
        },
        "range": [min(entry["range"][0] for entry in entries), max(entry["range"][1] for entry in entries)],
        "rounding": {
            end: _rounding([entry["rounding"][end] for entry in entries], rows)
            for end in ("x0", "x1", "path")
            if entries[0]["rounding"].get(end)
        },
    }


def _rounding(errors: list[dict[str, float]], rows: int) -> dict[str, float]:
    """Root mean square over all entries of all rows, and maximum."""
    squares = sum(error["squares"] for error in errors) / (rows * errors[0]["entries"])
    return {"rms": math.sqrt(squares), "max": max(error["max"] for error in errors)}
