"""Writing a store: a folder of shards and a manifest; the format is described in docs/couplings.md.

Every file is written under a temporary name, synced and renamed, so that it is either absent or whole, and a
finished shard is never touched again. One process at a time writes the manifest, and holds the lock.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from ..._support.files import file_hash, write_atomically
from ..._support.locks import locked
from ..._support.progress import Bar
from ...errors import FlowlitError
from .manifest import NAME, differences, identity_key, read_manifest, sums
from .plan import Shard, plan
from .schema import DIRECTION, FORMAT, MANIFEST, SHARD_FACTS, VERSION
from .shard import ShardFile

STAGE = "stage.json"
"""File that a pipeline has in the folder of a stage."""


class Store:
    """A folder of pairs that is being written."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._key: str | None = None  # of the pairs that were begun

    @property
    def manifest_path(self) -> Path:
        return self.folder / NAME

    def manifest(self) -> dict[str, Any]:
        """Read the manifest, see ``read_manifest``."""
        return read_manifest(self.folder)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the store's lock, and remove what writers that were killed left unfinished.

        Raises:
            FlowlitError: if another process is writing.
        """
        busy = f"{self.folder}: another process is writing this store"
        with locked(self.folder / ".lock", busy, "choose another folder with --store", keep=True):
            for leftover in self.folder.glob(".*.tmp"):
                leftover.unlink(missing_ok=True)
            yield

    def counts(self, num: int) -> list[int]:
        """Return the rows after each growth, if the store is to hold ``num``.

        Raises:
            FlowlitError: if it holds more already.
        """
        known: list[int] = [] if self.empty() else self.manifest()["counts"]
        if known and num < known[-1]:
            raise FlowlitError(
                f"{self.folder} holds, or is to hold, {known[-1]} pairs, and --num {num} would lose some; to "
                "train on fewer, give the coupling a limit"
            )
        return known if known and num == known[-1] else [*known, num]

    def empty(self) -> bool:
        """Return whether no shard was written yet: the manifest may still change then.

        Raises:
            FlowlitError: if there are files but no manifest, or one that is none of ours.
        """
        files = sorted(path.name for path in self.folder.glob("[!.]*") if path.name != STAGE)
        if files and NAME not in files:
            raise FlowlitError(
                f"{self.folder} holds other files ({files[0]} …) and no {NAME}; choose another folder with "
                "--store, or empty it"
            )
        empty = not any(name.endswith(".safetensors") for name in files)
        if files and empty:
            self.manifest()
        return empty

    def begin(self, identity: dict[str, Any], counts: list[int], remarks: dict[str, Any]) -> None:
        """Start, continue or grow a store of the pairs that ``identity`` describes.

        Args:
            identity: the facts of ``manifest.IDENTITY`` (and ``OPTIONAL``) that are known; they may not
                change.
            counts: rows after each growth.
            remarks: further facts for the manifest (``flowlit``, the version, at least); those of the latest
                run count.

        Raises:
            FlowlitError: if the folder already holds other pairs.
        """
        if identity["shard_size"] < 1:
            raise FlowlitError(f"{self.folder}: expected shard_size >= 1, found {identity['shard_size']}")
        base = {"format": FORMAT, "version": VERSION, "direction": DIRECTION, "seeds": []}
        wanted = json.loads(json.dumps({**base, **identity, **remarks, "counts": counts}))
        known: dict[str, Any] = {"shards": [], "counts": []}
        if not self.empty():
            known = self.manifest()
            if different := _growth_differences(known, wanted):
                raise FlowlitError(
                    f"{self.folder} already holds other pairs ({'; '.join(different)}). Choose another "
                    "folder with --store, or remove it"
                )
        shards = plan(counts, wanted["shard_size"])
        good = [entry for entry in known["shards"] if _size(self.folder / entry["file"]) == entry["bytes"]]
        complete = len(good) == len(shards)
        if not complete or known.get("counts") != counts or not known.get("complete"):
            self.write_manifest({**known, **wanted, "complete": False, "shards": good})
        self._key = identity_key(wanted)

    def missing(self) -> list[Shard]:
        """Return the shards that are still to be made; files that cannot be read count as missing."""
        manifest = self.manifest()
        listed = {entry["file"] for entry in manifest["shards"]}
        key = identity_key(manifest)
        shards = plan(manifest["counts"], manifest["shard_size"])
        return [
            shard for shard in shards if shard.file not in listed and _facts(self.folder, shard, key) is None
        ]

    def write_shard(self, shard: Shard, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
        """Write a shard atomically; its own header has the facts that the manifest will list."""
        blob = save(arrays)
        data = blob[8 + int.from_bytes(blob[:8], "little") :]
        self._key = self._key or identity_key(self.manifest())
        facts = {**facts, "of": self._key, "content": hashlib.sha256(data).hexdigest()}
        write_atomically(self.folder / shard.file, save(arrays, {"facts": json.dumps(facts)}))

    def finish(self) -> dict[str, Any]:
        """Write the manifest that a store has when it is ``finished``; return it."""
        manifest = self.finished()
        self.write_manifest(manifest)
        return manifest

    def finished(self) -> dict[str, Any]:
        """Return the manifest with all shards listed, their facts summed up, and marked complete.

        Raises:
            FlowlitError: if shards are missing.
        """
        manifest = self.manifest()
        known = {entry["file"]: entry for entry in manifest["shards"]}
        key = identity_key(manifest)
        shards = plan(manifest["counts"], manifest["shard_size"])
        bar = Bar(shards, desc="Checksums", leave=False, unit=" shards")
        facts = [known.get(shard.file) or self._entry(shard, key) for shard in bar]
        entries = [entry for entry in facts if entry]
        if missing := [shard.number for shard, entry in zip(shards, facts, strict=True) if not entry]:
            raise FlowlitError(
                f"{self.folder} lacks {len(missing)} shards ({missing[:5]} …); run the same command again"
            )
        return {**manifest, "shards": entries, **sums(entries), "complete": True}

    def _entry(self, shard: Shard, key: str) -> dict[str, Any] | None:
        path = self.folder / shard.file
        facts = _facts(self.folder, shard, key)
        return facts and {
            "file": shard.file,
            **facts,
            "bytes": path.stat().st_size,
            "sha256": file_hash(path),
        }

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        """Write the manifest, if it is one that can be read."""
        MANIFEST.check(manifest, self.manifest_path)
        write_atomically(self.manifest_path, json.dumps(manifest, indent=1).encode())


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else -1


def _growth_differences(known: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """List in words why a store cannot grow so; empty if it can."""
    labels = _labels_of(wanted["labels"], known["counts"])
    different = differences(known, {**wanted, "labels": labels})
    for key, name in (("seeds", "seeds"), ("counts", "pairs")):
        if known[key] != wanted[key][: len(known[key])]:
            different.append(f"{name}: {known[key]} there, {wanted[key]} now")
    return different


def _facts(folder: Path, shard: Shard, key: str) -> dict[str, Any] | None:
    """Read the facts of an unlisted shard, and all of its bytes; None if it is missing, damaged or of another
    set.
    """
    path = folder / shard.file
    if not path.exists():
        return None
    try:
        file = ShardFile(path)
        facts = SHARD_FACTS.parse(file.metadata.get("facts", ""), path)
        ours = len(file) == facts["rows"] == shard.rows and facts.get("of") == key
        return facts if ours and facts.get("content") == file.content_hash() else None
    except FlowlitError:
        return None


def _labels_of(labels: dict[str, Any] | None, counts: list[int]) -> dict[str, Any] | None:
    """Description of labels when the store had its first counts, without the hashes of later ones."""
    if not labels or "sha256" not in labels:
        return labels
    return {**labels, "sha256": {count: h for count, h in labels["sha256"].items() if int(count) in counts}}
