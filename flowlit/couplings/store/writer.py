"""Writing a store: a folder of shards and a manifest; the format is described in docs/couplings.md.

Every file is written under a temporary name, synced and renamed, so that it is either absent or whole, and a
finished shard is never touched again. One process at a time writes the manifest, and holds the lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save
from tqdm import tqdm

from ..._support.files import file_hash, write_atomically
from ...errors import FlowlitError
from .manifest import DIRECTION, FORMAT, IDENTITY, NAME, VERSION, Shard, differences, plan, read_manifest
from .shard import ShardFile


class Store:
    """One folder of pairs, to be written."""

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
        path = self.folder / ".lock"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = open(path, "a")  # noqa: SIM115 - held below
        except OSError as error:
            raise FlowlitError(
                f"{self.folder} cannot be written ({error}); choose another folder with --store"
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise FlowlitError(
                    f"{self.folder}: another process is writing this store; wait for it, or choose another "
                    "--store"
                ) from error
            for leftover in self.folder.glob(".*.tmp"):
                leftover.unlink(missing_ok=True)
            yield

    def counts(self, num: int) -> list[int]:
        """Tell the rows after each growth, if the store is to hold ``num``.

        Raises:
            FlowlitError: if it holds more already.
        """
        known: list[int] = [] if self.empty() else self.manifest()["counts"]
        if known and num < known[-1]:
            raise FlowlitError(
                f"{self.folder} holds, or is to hold, {known[-1]} pairs, and --num {num} would lose some; "
                "to train on fewer, "
                "give the coupling a limit"
            )
        return known if known and num == known[-1] else [*known, num]

    def empty(self) -> bool:
        """Whether no shard was written yet: what the manifest says may still change.

        Raises:
            FlowlitError: if there are shards, or files like them, but no manifest.
        """
        files = sorted(path.name for path in self.folder.glob("[!.]*.safetensors"))
        if files and not self.manifest_path.exists():
            raise FlowlitError(
                f"{self.folder} holds other files ({files[0]} …) and no {NAME}; choose another folder with "
                "--store, or empty it"
            )
        return not files

    def begin(self, identity: dict[str, Any], counts: list[int], remarks: dict[str, Any]) -> None:
        """Start, continue or grow a store whose pairs are what ``identity`` says.

        Args:
            identity: the facts of ``manifest.IDENTITY`` that are known; they may not change.
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
            different = differences(
                known, {**wanted, "labels": _labels_of(wanted["labels"], known["counts"])}
            )
            if known["seeds"] != wanted["seeds"][: len(known["seeds"])]:
                different.append(f"seeds: {known['seeds']} there, {wanted['seeds']} now")
            if counts[: len(known["counts"])] != known["counts"]:
                different.append(f"pairs: {known['counts']} there, {counts} now")
            if different:
                raise FlowlitError(
                    f"{self.folder} already holds other pairs ({'; '.join(different)}). Choose another "
                    "folder with --store, "
                    "or remove it"
                )
        shards = plan(counts, wanted["shard_size"])
        good = [entry for entry in known["shards"] if self._size(entry["file"]) == entry["bytes"]]
        complete = len(good) == len(shards)
        if not complete or known.get("counts") != counts or not known.get("complete"):
            self.write_manifest({**known, **wanted, "complete": False, "shards": good})
        self._key = identity_key(wanted)

    def _size(self, file: str) -> int:
        path = self.folder / Path(file).name
        return path.stat().st_size if path.exists() else -1

    def missing(self) -> list[Shard]:
        """Which shards are still to be made; files that cannot be read count as missing."""
        manifest = self.manifest()
        listed = {entry["file"] for entry in manifest["shards"]}
        key = identity_key(manifest)
        shards = plan(manifest["counts"], manifest["shard_size"])
        return [shard for shard in shards if shard.file not in listed and self._facts(shard, key) is None]

    def _facts(self, shard: Shard, key: str) -> dict[str, Any] | None:
        """Read what an unlisted shard says of itself, and all of its bytes; None if it is missing, damaged or
        another set's.
        """
        path = self.folder / shard.file
        if not path.exists():
            return None
        try:
            file = ShardFile(path)
            facts = json.loads(file.metadata["facts"])
            sound = len(file) == shard.rows and facts["of"] == key and facts["content"] == file.content_hash()
            return facts if sound else None
        except (FlowlitError, KeyError, ValueError):
            return None

    def write_shard(self, shard: Shard, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
        """Write a shard atomically; its own header keeps what the manifest will say of it."""
        blob = save(arrays)
        data = blob[8 + int.from_bytes(blob[:8], "little") :]
        self._key = self._key or identity_key(self.manifest())
        facts = {**facts, "of": self._key, "content": hashlib.sha256(data).hexdigest()}
        write_atomically(self.folder / shard.file, save(arrays, {"facts": json.dumps(facts)}))

    def finish(self) -> dict[str, Any]:
        """List all shards in the manifest, sum up what they say, and mark it complete.

        Raises:
            FlowlitError: if shards are missing.
        """
        manifest = self.manifest()
        known = {entry["file"]: entry for entry in manifest["shards"]}
        key = identity_key(manifest)
        entries = []
        missing = []
        for shard in tqdm(
            plan(manifest["counts"], manifest["shard_size"]), desc="Checksums", leave=False, unit=" shards"
        ):
            if entry := known.get(shard.file) or self._entry(shard, key):
                entries.append(entry)
            else:
                missing.append(shard.number)
        if missing:
            raise FlowlitError(
                f"{self.folder} lacks {len(missing)} shards ({missing[:5]} …); run the same command again"
            )
        manifest |= {"shards": entries, **sums(entries), "complete": True}
        self.write_manifest(manifest)
        return manifest

    def _entry(self, shard: Shard, key: str) -> dict[str, Any] | None:
        path = self.folder / shard.file
        facts = self._facts(shard, key)
        return facts and {
            "file": shard.file,
            **facts,
            "bytes": path.stat().st_size,
            "sha256": file_hash(path),
        }

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        write_atomically(self.manifest_path, json.dumps(manifest, indent=1).encode())


def identity_key(manifest: dict[str, Any]) -> str:
    """Hash of whose pairs these are; every shard carries it, so that none is taken for a part of another
    set.
    """
    return hashlib.sha256(
        json.dumps([manifest[key] for key in IDENTITY if key != "labels"]).encode()
    ).hexdigest()[:16]


def _labels_of(labels: dict[str, Any] | None, counts: list[int]) -> dict[str, Any] | None:
    """What was said of labels when the store had its first counts: hashes of later ones are left out."""
    if not labels or "sha256" not in labels:
        return labels
    return {**labels, "sha256": {count: h for count, h in labels["sha256"].items() if int(count) in counts}}


def sums(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """What the manifest says of all shards together: NFE, range of x1, rounding of both ends."""
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
