"""Pairs of other projects, copied into a store. They are never in memory as a whole."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..._support.progress import Bar
from ...errors import FlowlitError
from ...types import Pair
from .encoding import X0, X1, codec_facts, pack
from .foreign import PairReader
from .plan import Shard
from .writer import Store


def import_pairs(
    sources: Sequence[PairReader],
    into: str | Path,
    teacher: str,
    x0: X0 = "float16",
    x1: X1 = "float16",
    shard_size: int = 1000,
    num_classes: int | None = None,
    **remarks: Any,
) -> dict[str, Any]:
    """Copy pairs into a store, shard by shard; continue where that was interrupted.

    Args:
        sources: where from, each with a seed of its own.
        into: the store.
        teacher: name of who made them, for the manifest.
        x0, x1: dtypes; noise of other projects has no seed that flowlit could draw from.
        shard_size: pairs per file; a shard never holds two sources.
        num_classes: if not all classes occur in the labels.
        remarks: for the manifest.

    Returns:
        the manifest.

    Raises:
        FlowlitError: if sources differ in shape, labels or codec, or share a seed.
    """
    store = Store(into)
    if x0 == "seed":
        raise FlowlitError(
            "noise of another project cannot be drawn again from flowlit's seeds; store it: --x0 float16"
        )
    _check_alike(sources)
    identity = {
        **_facts(sources, num_classes),
        "x0": x0,
        "x1": x1,
        "teacher": {"name": teacher},
        "shard_size": shard_size,
    }
    counts = list(itertools.accumulate(len(source) for source in sources))
    with store.writing():
        store.begin(identity, counts, remarks)
        for shard in Bar(store.missing(), desc="Importing", unit=" shards"):
            _copy(store, shard, sources, counts, x0, x1)
        return store.finish()


def _facts(sources: Sequence[PairReader], num_classes: int | None) -> dict[str, Any]:
    """Describe the sources for the manifest."""
    classes = max(source.num_classes() for source in sources)
    if classes and num_classes is not None:
        if num_classes < classes:
            raise FlowlitError(f"labels reach {classes - 1}, but num_classes is {num_classes}; raise it")
        classes = num_classes
    codec = codec_facts(sources[0].codec)
    names = getattr(sources[0], "classes", None)
    return {
        "origin": "noise",
        "shape": list(sources[0].shape),
        "labels": {"num_classes": classes, "law": "imported"} if classes else None,
        "noise": {"generator": sources[0].generator},
        "images": None,
        "solver": None,
        "seeds": [source.seed for source in sources],
        **({"codec": codec} if codec else {}),
        **({"classes": list(names)} if names else {}),
    }


def _copy(
    store: Store, shard: Shard, sources: Sequence[PairReader], counts: Sequence[int], x0: X0, x1: X1
) -> None:
    """Write one shard; ``counts`` are the rows up to the end of each source."""
    number = int(np.searchsorted(counts, shard.first, side="right"))
    start = shard.first - (counts[number - 1] if number else 0)
    rows = sources[number].read(start, start + shard.rows)
    cond = {} if rows.label is None else {"label": torch.from_numpy(rows.label)}
    nfe = torch.zeros(shard.rows, dtype=torch.int64)
    index = torch.from_numpy(rows.index)
    store.write_shard(shard, *pack(index, Pair(rows.x0, rows.x1, cond), nfe, sources[number].seed, x0, x1))


def _check_alike(sources: Sequence[PairReader]) -> None:
    shapes = {source.shape for source in sources}
    labelled = {bool(source.num_classes()) for source in sources}
    if len(shapes) > 1 or len(labelled) > 1:
        raise FlowlitError(
            f"sources differ: shapes {sorted(shapes)}, labels {sorted(labelled)}; import them into several "
            "stores"
        )
    seeds = [source.seed for source in sources]
    if twice := {seed for seed in seeds if seeds.count(seed) > 1}:
        raise FlowlitError(
            f"seeds {sorted(twice)} occur in several sources, so their pairs may be the same; import one of "
            "them"
        )


def find_folders(path: Path) -> list[Path]:
    """Find pair folders: the folder itself, or those directly inside, in the order of their numbers.

    Raises:
        FlowlitError: if there are none.
    """
    inside = [path] if (path / "z0.npy").exists() else [p.parent for p in sorted(path.glob("*/z0.npy"))]
    if (path / "manifest.json").exists():
        raise FlowlitError(
            f"{path} is a store of flowlit already; use it as it is, or join it with others: flowlit "
            "couplings merge"
        )
    if not inside:
        raise FlowlitError(
            f"no pairs in {path}: expected z0.npy and z1.npy there, or in one folder a seed inside it"
        )
    return sorted(
        inside, key=lambda p: (not p.name.isdecimal(), int(p.name) if p.name.isdecimal() else 0, p.name)
    )
