"""Several stores as one on disk."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..._support.files import building, write_atomically
from ...errors import FlowlitError
from .manifest import CLASSES, IDENTITY, NAME, OPTIONAL, sums
from .plan import Shard
from .reader import StoredPairs
from .schema import FORMAT, MANIFEST, VERSION


def merge(folders: Sequence[str | Path], into: str | Path, **remarks: Any) -> dict[str, Any]:
    """Put the shards of finished stores into a new one, which appears when it is whole.

    On the same disk files are linked, not copied: they take no space, and damage to one is damage to both.

    Args:
        folders: stores that may be read as one, see ``StoredPairs``.
        into: a folder that does not exist yet.
        remarks: for the manifest.

    Returns:
        the new manifest.

    Raises:
        FlowlitError: if they differ in teacher, solver, shape or dtypes, repeat noise, or ``into`` exists.
    """
    pairs = StoredPairs(folders, checksums=False)
    first = pairs.manifest
    with building(Path(into)) as folder:
        entries = [_take(folder, number, pairs) for number in range(len(pairs.entries))]
        if pairs.text is not None:
            shutil.copytree(pairs.text.folder, folder / pairs.text.folder.name)
        rows = [entry["rows"] for entry in entries]
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            **{key: first[key] for key in (*IDENTITY, *OPTIONAL) if key in first},
            "seeds": sorted({seed for m in pairs.manifests for seed in m["seeds"]}),
            **({CLASSES: list(pairs.classes)} if pairs.classes else {}),
            **({"data": pairs.trained_on} if pairs.trained_on else {}),
            "checkpoint": first.get("checkpoint"),
            "flowlit": first["flowlit"],
            "shard_size": max(rows),
            "counts": list(itertools.accumulate(rows)),
            "merged": [str(source) for source in folders],
            "shards": entries,
            **sums(entries),
            **remarks,
            "complete": True,
        }
        MANIFEST.check(manifest, into)
        write_atomically(folder / NAME, json.dumps(manifest, indent=1).encode())
    return manifest


def _take(folder: Path, number: int, pairs: StoredPairs) -> dict[str, Any]:
    """Link or copy one file that is as its manifest says; only ``verify`` reads all of it."""
    source, entry = pairs.entries[number]
    file = source / entry["file"]
    if not file.is_file() or file.stat().st_size != entry["bytes"]:
        raise FlowlitError(f"shard {file} is missing or truncated; see `flowlit couplings verify {source}`")
    pairs.open(number)
    target = folder / Shard(number, 0, entry["rows"]).file
    try:
        os.link(file, target)
    except OSError:  # another disk
        shutil.copyfile(file, target)
        with open(target, "rb") as copy:
            os.fsync(copy.fileno())
    return {**entry, "file": target.name}
