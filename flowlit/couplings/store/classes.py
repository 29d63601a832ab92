"""Classes of stored pairs, shard by shard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...data.classes import rows_of_classes
from .shard import ShardFile
from .text import NUMBER

Entries = Sequence[tuple[Path, dict[str, Any]]]
Labels = dict[str, Any] | None


def rows_of(
    entries: Entries, labels: Labels, count: int, only: Sequence[int] | None, name: str
) -> np.ndarray | None:
    """Return the rows, of the first ``count`` pairs, that are of some classes, in order; None for all.

    Prompts by number are classes where ``labels`` is what ``grouped`` returns.

    Raises:
        FlowlitError: naming what is there, if one of the classes is not.
    """
    return None if only is None else rows_of_classes([*_by_shard(entries, labels, count)], only, name)


def grouped(manifest: dict[str, Any]) -> Labels:
    """Return how the pairs of a manifest are divided: by label, or by the number of their prompt."""
    if manifest["labels"] is None and NUMBER in manifest.get("conditions", {}):
        return {"law": "stored", "field": NUMBER}
    return manifest["labels"]


def count_labels(
    entries: Entries, labels: Labels, count: int, only: Sequence[int] | None
) -> Counter[int] | None:
    """Return how many of the first ``count`` pairs each class has, or each of some; None without classes."""
    if labels is None:
        return None
    counts: Counter[int] = Counter()
    for shard in _by_shard(entries, labels, count):
        counts.update(shard.tolist())
    return counts if only is None else Counter({label: counts[label] for label in only})


def _by_shard(entries: Entries, labels: Labels, count: int) -> Iterator[np.ndarray]:
    for folder, entry in entries if labels is not None else ():
        if count > 0:
            yield labels_of_shard(folder, labels or {}, entry, min(entry["rows"], count))
        count -= entry["rows"]


def labels_of_shard(folder: Path, labels: dict[str, Any], entry: dict[str, Any], rows: int) -> np.ndarray:
    """Return the labels of the first rows of a shard, (rows,): computed where they are balanced by index."""
    first, last = entry["index"]
    if labels["law"] == "balanced" and last - first + 1 == entry["rows"]:
        return np.arange(first, first + rows) % labels["num_classes"]
    return ShardFile(folder / entry["file"]).read(labels.get("field", "label"), 0, rows)
