"""The description of a store of pairs (``manifest.json``); see docs/couplings.md. Read without torch, so that
it is instant.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ..._support.names import in_current_names
from ...errors import FlowlitError

FORMAT = "flowlit-couplings"
VERSION = 2
NAME = "manifest.json"


DIRECTION = "x0 is noise (t = 0), x1 is data (t = 1)"


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


OPTIONAL = ("codec", "conditions")
"""Likewise, but absent where there is nothing to say: x1 are pixels, and labels are the only condition."""


TENSORS = ("x0", "x1", "index", "label", "probe")
"""Names in a shard that have a meaning of their own."""


REQUIRED = (*IDENTITY, "seeds", "counts", "shards", "complete", "flowlit")


class Shard(NamedTuple):
    """Rows first … first + rows - 1 of a store, which are its file number ``number``."""

    number: int
    first: int
    rows: int

    @property
    def file(self) -> str:
        return f"{self.number:05d}.safetensors"


def plan(counts: list[int], shard_size: int) -> list[Shard]:
    """Cut rows into shards. A store that grew (``counts`` after each growth) keeps the shards that it had.

    >>> [shard.rows for shard in plan([5, 12], 3)]
    [3, 2, 3, 3, 1]
    """
    shards: list[Shard] = []
    for begin, end in zip([0, *counts], counts, strict=False):
        shards += [
            Shard(len(shards) + i, first, min(shard_size, end - first))
            for i, first in enumerate(range(begin, end, shard_size))
        ]
    return shards


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Read the manifest of a store.

    Raises:
        FlowlitError: if there is none, it is torn, of another format or version, or of another direction.
    """
    path = Path(folder) / NAME
    try:
        manifest = json.loads(path.read_text())
        kind = f"{manifest['format']} version {manifest['version']}"
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FlowlitError(
            f"no couplings in {folder} (expected {NAME} and shards). Make them first: flowlit couple -c "
            f"experiments/couple_….yaml --store {folder}"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FlowlitError(
            f"{path} is no manifest of couplings ({error!r}); make the couplings again"
        ) from error
    if (manifest["format"], manifest["version"]) != (FORMAT, VERSION):
        version = manifest["version"]
        newer = manifest["format"] == FORMAT and isinstance(version, int) and version > VERSION
        advice = "install a newer flowlit" if newer else "make the couplings again"
        raise FlowlitError(f"{path} is {kind}; this flowlit reads {FORMAT} version {VERSION}; {advice}")
    if manifest.get("direction", DIRECTION) != DIRECTION:
        raise FlowlitError(
            f"{path}: the direction of the pairs is {manifest['direction']!r}; expected {DIRECTION!r}. Make "
            "the couplings again"
        )
    if missing := [key for key in REQUIRED if key not in manifest]:
        raise FlowlitError(
            f"{path} lacks {', '.join(missing)}; it is no whole manifest. Make the couplings again"
        )
    check_conditions(manifest.get("conditions", {}), str(path))
    return manifest


def check_conditions(names: Iterable[str], where: str) -> None:
    """Refuse names of conditions that could not be those of tensors beside the others, or of files.

    Raises:
        FlowlitError: naming them.
    """
    if unfit := [name for name in names if not name.isidentifier() or name in TENSORS]:
        raise FlowlitError(
            f"{where}: conditions {unfit}; expected names of letters, digits and _, other than "
            f"{', '.join(TENSORS)}"
        )


def differences(
    known: dict[str, Any],
    wanted: dict[str, Any],
    keys: tuple[str, ...] = (*IDENTITY, *OPTIONAL),
    words: tuple[str, str] = ("there", "now"),
) -> list[str]:
    """List in words where two manifests describe other pairs."""
    return [
        f"{key}: {_short(known.get(key))} {words[0]}, {_short(wanted.get(key))} {words[1]}"
        for key in keys
        if known.get(key) != wanted.get(key)
        and in_current_names(known.get(key)) != in_current_names(wanted.get(key))
    ]


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(
            f"{key} {str(entry)[:12] if key == 'sha256' else _short(entry)}" for key, entry in value.items()
        )
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
    for end in ("x0", "x1"):
        dtype = "made again from the seed" if manifest[end] == "seed" else manifest[end]
        rows[end] = dtype + _rounding_note(manifest.get("rounding", {}).get(end))
    if "range" in manifest:
        rows["range of x1"] = f"{manifest['range'][0]} … {manifest['range'][1]}"
    rows["labels"] = _short(manifest["labels"]) if manifest["labels"] else "none"
    rows["noise"] = _short(manifest["noise"]) + f"; seeds {', '.join(map(str, manifest['seeds']))}"
    for key in ("images", *OPTIONAL, "teacher", "checkpoint", "solver"):
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
            end: _rounding([entry["rounding"][end] for entry in entries], rows) for end in ("x0", "x1")
        },
    }


def _rounding(errors: list[dict[str, float]], rows: int) -> dict[str, float]:
    """Root mean square over all entries of all rows, and maximum."""
    squares = sum(error["squares"] for error in errors) / (rows * errors[0]["entries"])
    return {"rms": math.sqrt(squares), "max": max(error["max"] for error in errors)}
