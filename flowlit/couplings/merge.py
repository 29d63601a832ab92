"""Several stores as one on disk."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..manifest import IDENTITY, Shard, read_manifest
from ..types import FlowlitError
from .store import Store, sums
from .stored import StoredPairs


def merge(folders: Sequence[str | Path], into: str | Path) -> dict[str, Any]:
    """Put the shards of finished stores into a new one; on the same disk they are linked, not copied.

    Raises:
        FlowlitError: if they differ in teacher, solver, shape or dtypes, repeat noise, or ``into`` holds pairs already.
    """
    store = Store(into)
    if store.manifest_path.exists():
        raise FlowlitError(f"{into} holds couplings already; choose a new folder with --into")
    pairs = StoredPairs(folders)
    manifests = [read_manifest(folder) for folder in folders]
    with store.writing():
        entries = [_take(store, number, folder, entry) for number, (folder, entry) in enumerate(pairs.entries)]
        rows = [entry["rows"] for entry in entries]
        manifest = {
            **{key: manifests[0][key] for key in ("format", "version", *IDENTITY) if key in manifests[0]},
            "seeds": sorted({seed for m in manifests for seed in m["seeds"]}),
            "shard_size": max(rows),
            "counts": list(itertools.accumulate(rows)),
            "merged": [str(folder) for folder in folders],
            "flowlit": manifests[0]["flowlit"],
            "shards": entries,
            **sums(entries),
            "complete": True,
        }
        store.write_manifest(manifest)
        for stale in {path.name for path in store.folder.glob("*.safetensors")} - {entry["file"] for entry in entries}:
            (store.folder / stale).unlink()  # of an interrupted merge of other stores
    return manifest


def _take(store: Store, number: int, folder: Path, entry: dict[str, Any]) -> dict[str, Any]:
    source = folder / Path(entry["file"]).name
    file = Shard(number, 0, entry["rows"]).file
    if not source.is_file() or source.stat().st_size != entry["bytes"]:
        raise FlowlitError(f"shard {source} is missing or truncated; see `flowlit couplings verify {folder}`")
    temporary = store.folder / f".{file}.tmp"
    try:
        try:
            os.link(source, temporary)
        except OSError:  # another disk
            shutil.copyfile(source, temporary)
        os.replace(temporary, store.folder / file)
        temporary.unlink(missing_ok=True)  # renaming a link onto another one of the same file does nothing
    except OSError as error:
        raise FlowlitError(f"{store.folder / file} cannot be written ({error}); free some space and merge again") from error
    return {**entry, "file": file}
