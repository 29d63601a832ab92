"""Random access to the rows of one store or several, in constant memory."""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from ...data.provenance import shared
from ...errors import FlowlitError
from ...types import Pair
from ..noise import seeded_normals
from .checks import (
    check_compatible,
    check_pairs,
    check_rows,
    check_shard,
    conditions_of,
    is_normal,
    path_of,
)
from .classes import count_labels, grouped, rows_of
from .manifest import read_manifest
from .plan import plan
from .shard import Fields, ShardFile, gather
from .states import states_of
from .text import NUMBER, text_of, with_text

SOFT_LIMIT, _ = resource.getrlimit(resource.RLIMIT_NOFILE)


OPEN_FILES = min(4096, SOFT_LIMIT // 2) if SOFT_LIMIT > 0 else 4096


class StoredPairs(Dataset):
    """Rows of stores, by a global index over all of them; items and batches are ``Pair`` in the stored
    dtypes.

    Files are verified when they are first needed (checksum, content, noise drawn from a seed), and half as
    many as the system allows stay open; rows are read with ``pread`` into the batch. So memory depends on the
    batch, not on the store.

    Args:
        folders: stores that hold parts of one set: the same teacher, solver, shape and dtypes, no noise
            twice.
        limit: only the first pairs.
        checksums: compare each file with its checksum when it is opened.
        only: classes, of those first pairs, to take; None takes all.
        states: read so many states of each trajectory, of which x1 is the last, spread over the stored ones:
            see ``States``. None reads pairs alone.

    Raises:
        FlowlitError: if a store is unfinished, of another kind than the first, repeats its noise, or has
            fewer states.
    """

    def __init__(
        self,
        folders: Sequence[str | Path],
        limit: int | None = None,
        checksums: bool = True,
        only: Sequence[int] | None = None,
        states: int | None = None,
    ):
        self.folders = [Path(folder) for folder in folders]
        if not self.folders:
            raise FlowlitError("no folders of pairs were given; expected at least one")
        self.checksums = checksums
        self.manifests = [_finished(folder) for folder in self.folders]
        check_compatible(self.folders, self.manifests)
        self.manifest = self.manifests[0]
        self.states = None if states is None else states_of(self.manifest, states, self.folders[0])
        self.entries = [
            (folder, entry)
            for folder, m in zip(self.folders, self.manifests, strict=True)
            for entry in m["shards"]
        ]
        rows = np.array([entry["rows"] for _, entry in self.entries])
        self.ends = np.cumsum(rows)
        self.starts = self.ends - rows
        self.count = _limited(limit, int(self.ends[-1]), self.folders[0])
        self.open = self._opener()
        self.text = text_of(self.folders, self.manifests, checksums)
        self.only = only
        self.rows = rows_of(self.entries, grouped(self.manifest), self.count, only, self.name)

    def _opener(self) -> Callable[[int], ShardFile]:
        """Return a function that opens a shard, and keeps the last ones open. It has no reference to self, so
        that they are closed with it.
        """
        return lru_cache(OPEN_FILES)(partial(open_shard, self.entries, self.manifest, self.checksums, {}))

    def __getstate__(self) -> dict[str, Any]:
        # a worker opens its own files
        return {key: value for key, value in self.__dict__.items() if key != "open"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.open = self._opener()

    def __len__(self) -> int:
        return self.count if self.rows is None else len(self.rows)

    @property
    def name(self) -> str:
        return f"couplings in {', '.join(map(str, self.folders))}"

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.manifest["shape"])

    @property
    def codec(self) -> dict[str, Any] | None:
        """Description of the codec of x1, see ``codec_facts``."""
        return self.manifest.get("codec")

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of class 0, 1, …; None where the store does not have them."""
        named = (manifest.get("classes") for manifest in self.manifests)
        return next((tuple(names) for names in named if names), None)

    @property
    def trained_on(self) -> dict[str, Any] | None:
        """Images that the teacher was trained on; None where a store does not say, or they differ."""
        return shared([manifest.get("data") for manifest in self.manifests])

    def label_counts(self) -> Counter[int] | None:
        """Return how many pairs each class has; None without classes."""
        return count_labels(self.entries, self.manifest["labels"], self.count, self.only)

    @property
    def conditions(self) -> dict[str, Any]:
        """dtype and shape of what a row is conditioned on, by name, labels included; likewise of states."""
        conditions = with_text(conditions_of(self.manifest), self.text)
        return conditions if self.states is None else conditions | self.states.conditions(self.manifest)

    @property
    def num_classes(self) -> int:
        return self.manifest["labels"]["num_classes"] if self.manifest["labels"] else 0

    def __getitem__(self, index: int) -> Pair:
        pair = self.__getitems__([index])
        return Pair(pair.x0[0], pair.x1[0], {key: value[0] for key, value in pair.cond.items()})

    def __getitems__(self, indices: Sequence[int]) -> Pair:
        """Read a batch at once, as PyTorch's DataLoader does: x0 and x1 are (B, C, H, W)."""
        places = np.asarray(indices, np.int64)
        if len(places) and not -1 < places.min() <= places.max() < len(self):
            raise IndexError(f"rows {places.min()} … {places.max()} of {len(self)}")
        return self._read(places if self.rows is None else self.rows[places])

    def _read(self, places: np.ndarray) -> Pair:  # (B,) among those of all classes
        numbers = np.searchsorted(self.ends, places, side="right")
        rows = list(zip(numbers.tolist(), (places - self.starts[numbers]).tolist(), strict=True))
        x0 = "index" if self.manifest["x0"] == "seed" else "x0"
        path = self.states.stored() if self.states else []
        read = self._gather([x0, "x1", *conditions_of(self.manifest), *path], rows)
        if x0 == "index":
            seeds = [self.entries[number][1]["seed"] for number, _ in rows]
            read["x0"] = seeded_normals(seeds, read.pop("index").tolist(), self.shape)
        if self.text is not None:
            read["text"] = self.text.rows(read.pop(NUMBER))
        pair = Pair(read.pop("x0"), read.pop("x1"), read)
        return pair if self.states is None else self.states.add(pair)

    def _gather(self, names: Sequence[str], rows: list[tuple[int, int]]) -> dict[str, Tensor]:
        ends = {end: (self.manifest[end], self.shape) for end in ("x0", "x1")}
        path = path_of(self.manifest) or ("uint8", ())
        kinds = {"index": ("int64", ()), "path": path, **ends, **conditions_of(self.manifest)}
        return gather(self.open, {name: kinds[name] for name in names}, rows)

    def check(self, rows: int = 1024) -> None:
        """Check the first pairs of each store, see ``check_pairs``."""
        begin = 0
        for folder, manifest in zip(self.folders, self.manifests, strict=True):
            pair = self._read(np.arange(begin, min(begin + min(rows, manifest["count"]), self.count)))
            exact = manifest["origin"] != "data"
            check_pairs(pair.x0, pair.x1, str(folder), exact, is_normal(manifest))
            begin += manifest["count"]
            if begin >= self.count:
                break


def _finished(folder: Path) -> dict[str, Any]:
    manifest = read_manifest(folder)
    if not manifest["complete"]:
        shards = plan(manifest["counts"], manifest["shard_size"])
        done = sum(shard.rows for shard in shards if (folder / shard.file).exists())
        raise FlowlitError(
            f"{folder} is not finished ({done} of {manifest['counts'][-1]} pairs); run the `flowlit couple` "
            "command that began it again, it goes on from there"
        )
    return manifest


def _limited(limit: int | None, count: int, folder: Path) -> int:
    if limit is not None and limit < 1:
        raise FlowlitError(f"{folder}: limit is {limit}; expected at least 1, or none for all pairs")
    if limit is not None and limit > count:
        raise FlowlitError(
            f"{folder}: limit is {limit}, but it holds {count} pairs; lower the limit, or make more: flowlit "
            f"couple … --num {limit}"
        )
    return limit or count


Entries = Sequence[tuple[Path, dict[str, Any]]]


def open_shard(
    entries: Entries,
    manifest: dict[str, Any],
    checksums: bool,
    known: dict[int, tuple[Path, Fields]],
    number: int,
) -> ShardFile:
    """Open the file of a manifest entry, and verify it unless it is ``known`` from before."""
    if number in known:
        path, fields = known[number]
        return ShardFile(path, fields=fields)
    folder, entry = entries[number]
    path = folder / entry["file"]
    shard = ShardFile(path, entry["sha256"] if checksums else None)
    check_shard(shard, manifest, entry)
    check_rows(shard, manifest, entry)
    known[number] = path, shard.fields
    return shard
