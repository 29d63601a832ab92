"""Random access to the rows of one store or several, in constant memory."""

from __future__ import annotations

import itertools
import resource
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...errors import FlowlitError
from ...types import Pair
from ..noise import seeded_normals
from .manifest import IDENTITY, differences, plan, read_manifest
from .shard import Fields, ShardFile, reading

SOFT_LIMIT, _ = resource.getrlimit(resource.RLIMIT_NOFILE)


OPEN_FILES = min(4096, SOFT_LIMIT // 2) if SOFT_LIMIT > 0 else 4096


PROBE_TOLERANCE = 1e-6


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

    Raises:
        FlowlitError: if a store is unfinished, of another kind than the first, or repeats its noise.
    """

    def __init__(self, folders: Sequence[str | Path], limit: int | None = None, checksums: bool = True):
        self.folders = [Path(folder) for folder in folders]
        self.checksums = checksums
        self.manifests = [_finished(folder) for folder in self.folders]
        check_compatible(self.folders, self.manifests)
        self.manifest = self.manifests[0]
        self.entries = [
            (folder, entry)
            for folder, m in zip(self.folders, self.manifests, strict=True)
            for entry in m["shards"]
        ]
        rows = np.array([entry["rows"] for _, entry in self.entries])
        self.ends = np.cumsum(rows)
        self.starts = self.ends - rows
        self.count = _limited(limit, int(self.ends[-1]), self.folders[0])
        self._open = self._opener()

    def _opener(self) -> Callable[[int], ShardFile]:
        """Keep the last files open; holds no reference to self, so that they are closed with it."""
        return lru_cache(OPEN_FILES)(partial(open_shard, self.entries, self.manifest, self.checksums, {}))

    def __getstate__(self) -> dict[str, Any]:
        return {
            key: value for key, value in self.__dict__.items() if key != "_open"
        }  # a worker opens its own files

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open = self._opener()

    def __len__(self) -> int:
        return self.count

    @property
    def name(self) -> str:
        return f"couplings in {', '.join(map(str, self.folders))}"

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.manifest["shape"])

    @property
    def num_classes(self) -> int:
        return self.manifest["labels"]["num_classes"] if self.manifest["labels"] else 0

    def __getitem__(self, index: int) -> Pair:
        pair = self.__getitems__([index])
        return Pair(pair.x0[0], pair.x1[0], {key: value[0] for key, value in pair.cond.items()})

    def __getitems__(self, indices: Sequence[int]) -> Pair:
        """Read a batch at once, as PyTorch's DataLoader asks for it."""
        places = np.asarray(indices, np.int64)
        if len(places) and not -1 < places.min() <= places.max() < self.count:
            raise IndexError(f"rows {places.min()} … {places.max()} of {self.count}")
        numbers = np.searchsorted(self.ends, places, side="right")
        rows = list(zip(numbers.tolist(), (places - self.starts[numbers]).tolist(), strict=True))
        x0 = "index" if self.manifest["x0"] == "seed" else "x0"
        read = self._gather([x0, "x1", *(["label"] if self.manifest["labels"] else [])], rows)
        if x0 == "index":
            seeds = [self.entries[number][1]["seed"] for number, _ in rows]
            read["x0"] = seeded_normals(seeds, read.pop("index").tolist(), self.shape)
        return Pair(read.pop("x0"), read.pop("x1"), read)

    def _gather(self, names: Sequence[str], rows: list[tuple[int, int]]) -> dict[str, Tensor]:
        """Read rows (shard, row within it) of tensors, each with a single system call straight to its place
        in the batch.
        """
        kinds = {
            name: (self.manifest[name], self.shape) if name in ("x0", "x1") else ("int64", ())
            for name in names
        }
        batch = {name: np.empty((len(rows), *shape), dtype) for name, (dtype, shape) in kinds.items()}
        into = [
            (name, memoryview(array.data).cast("B"), array.nbytes // len(rows))
            for name, array in batch.items()
        ]
        for place, (number, row) in enumerate(rows):
            shard = self._open(number)
            for name, buffer, nbytes in into:
                shard.fill(buffer[place * nbytes : (place + 1) * nbytes], shard.begin[name] + row * nbytes)
        return {name: torch.from_numpy(array) for name, array in batch.items()}

    def check(self, rows: int = 1024) -> None:
        """Look at the first pairs of each store, see ``check_pairs``."""
        begin = 0
        for folder, manifest in zip(self.folders, self.manifests, strict=True):
            pair = self.__getitems__(range(begin, min(begin + min(rows, manifest["count"]), self.count)))
            check_pairs(pair.x0, pair.x1, str(folder), exact=manifest["origin"] != "data")
            if (begin := begin + manifest["count"]) >= self.count:
                break


def _finished(folder: Path) -> dict[str, Any]:
    manifest = read_manifest(folder)
    if not manifest["complete"]:
        shards = plan(manifest["counts"], manifest["shard_size"])
        done = sum(shard.rows for shard in shards if (folder / shard.file).exists())
        raise FlowlitError(
            f"{folder} is not finished ({done} of {manifest['counts'][-1]} pairs); run the `flowlit couple` "
            "command that "
            "began it again, it goes on from there"
        )
    return manifest


def _limited(limit: int | None, count: int, folder: Path) -> int:
    if limit is not None and limit < 1:
        raise FlowlitError(f"{folder}: limit is {limit}; expected at least 1, or none for all pairs")
    if limit is not None and limit > count:
        raise FlowlitError(
            f"{folder}: limit is {limit}, but it holds {count} pairs; lower the limit, or make more: "
            f"flowlit couple … --num {limit}"
        )
    return limit or count


def check_compatible(folders: Sequence[Path], manifests: Sequence[dict[str, Any]]) -> None:
    """Refuse stores that are not parts of one set.

    Raises:
        FlowlitError: if teacher, solver, shape or dtypes differ, or the same noise occurs twice.
    """
    keys = tuple(key for key in IDENTITY if key != "shard_size")
    for folder, manifest in zip(folders[1:], manifests[1:], strict=True):
        if different := differences(manifests[0], manifest, keys, ("in the first", "in this one")):
            raise FlowlitError(
                f"{folder} holds other pairs than {folders[0]} ({'; '.join(different)}); they cannot be one "
                "set"
            )
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


Entries = Sequence[tuple[Path, dict[str, Any]]]


def open_shard(
    entries: Entries,
    manifest: dict[str, Any],
    checksums: bool,
    known: dict[int, tuple[Path, Fields]],
    number: int,
) -> ShardFile:
    """Open the file of a manifest entry, and verify it unless it is ``known`` from an earlier time."""
    if number in known:
        path, fields = known[number]
        return ShardFile(path, fields=fields)
    folder, entry = entries[number]
    path = folder / Path(entry["file"]).name  # a manifest cannot point out of its folder
    shard = ShardFile(path, entry["sha256"] if checksums else None)
    check_shard(shard, manifest, entry)
    known[number] = path, shard.fields
    return shard


def check_shard(shard: ShardFile, manifest: dict[str, Any], entry: dict[str, Any]) -> None:
    """Compare a file with what the manifest says of it, and its noise with what the seed gives.

    Raises:
        FlowlitError: if rows, shape or dtype differ, or the noise cannot be drawn again on this machine.
    """
    shape = tuple(manifest["shape"])
    expected = {"x1": (np.dtype(manifest["x1"]), shape), "index": (np.dtype(np.int64), ())}
    if manifest["x0"] != "seed":
        expected["x0"] = (np.dtype(manifest["x0"]), shape)
    if manifest["labels"]:
        expected["label"] = (np.dtype(np.int64), ())
    with reading(shard.path):
        for name, (dtype, rest) in expected.items():
            found = shard.fields[name][:2]
            if found != (dtype, (entry["rows"], *rest)):
                raise ValueError(
                    f"{name} is {found[0]} {found[1]}, the manifest says {dtype} {(entry['rows'], *rest)}"
                )
        if manifest["x0"] == "seed":
            again = seeded_normals([entry["seed"]], shard.read("index", 0, 1).tolist(), shape).numpy()
            probe = shard.read("probe")
            if probe.shape != again.shape:
                raise ValueError(f"its probe has shape {probe.shape}, expected {again.shape}")
    if manifest["x0"] == "seed" and not np.allclose(probe, again, rtol=0, atol=PROBE_TOLERANCE):
        raise FlowlitError(
            f"shard {shard.path}: seed {entry['seed']} gives other noise here than where the pairs were "
            "made (up to "
            f"{np.abs(probe - again).max():.3g} apart), so its x0 cannot be drawn again. NumPy "
            f"{np.__version__} draws "
            "differently; use the version that made them, or make them again with --x0 float16"
        )


def check_pairs(x0: Tensor, x1: Tensor, where: str, exact: bool = True) -> None:
    """Look at some pairs before training on them: the noise must be noise, and the ends not swapped.

    Args:
        x0: (B, …) rows; x1 likewise.
        where: named in the error.
        exact: x0 was drawn from N(0, I); otherwise a teacher found it from data, and it is so only roughly.

    Raises:
        FlowlitError: if x0 is far from N(0, 1) in mean or standard deviation, or x1 is not finite.
    """
    x0 = x0.double()
    x1 = x1.double()
    tolerance = (0.01 if exact else 0.3) + 6 / x0.numel() ** 0.5
    mean = float(x0.mean())
    std = float(x0.std())
    if not (abs(mean) <= tolerance and abs(std - 1) <= tolerance):  # NaN is no noise either
        hint = (
            "the ends seem swapped: x0 is noise, x1 is data. " if float(x1.mean().abs()) < tolerance else ""
        )
        raise FlowlitError(
            f"{where}: x0 has mean {mean:.3f} and standard deviation {std:.3f}, expected 0 and 1 (noise). "
            f"{hint}"
            "Make the couplings again with `flowlit couple`"
        )
    if not torch.isfinite(x1).all():
        raise FlowlitError(
            f"{where}: x1 is not finite everywhere. Make the couplings again with a healthy teacher"
        )
