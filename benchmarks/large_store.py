"""Opening and reading stores from ten thousand to ten million pairs: time, memory, throughput; each in a
fresh process.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .data import write_store
from .processes import output_of
from .report import Claim, Result
from .timing import median, spread

QUICK = {"counts": (1_000, 10_000, 100_000), "shard_size": 1_000, "cold": 20, "steady": 200, "repeats": 1}


def run(
    counts: Sequence[int] = (10_000, 100_000, 1_000_000, 10_000_000),
    shape: Sequence[int] = (1, 8, 8),
    shard_size: int = 10_000,
    batch: int = 128,
    cold: int = 100,
    steady: int = 2_000,
    most: float = 60.0,
    repeats: int = 3,
    seed: int = 0,
) -> Result:
    """Measure stores of growing size, in turn; float16 noise and uint8 data.

    Args:
        counts: pairs of each store, growing; the first is what the others are compared with.
        shape: of a sample.
        shard_size: pairs per file.
        batch: pairs read at a time.
        cold: batches that count as cold start, in which most files are opened and their checksums verified.
        steady: batches after them.
        most: seconds after which steady reading ends early.
        repeats: processes per store.
        seed: of data and order.
    """
    with tempfile.TemporaryDirectory(prefix="flowlit-large-") as folder:
        stores = {
            n: write_store(Path(folder) / str(n), n, shape, shard_size=shard_size, seed=seed + 1)
            for n in counts
        }
        probes: dict[tuple[int, bool], list[dict[str, Any]]] = {(n, True): [] for n in counts} | {
            (counts[-1], False): []
        }
        for repeat in tqdm(range(repeats), desc="Repeats", leave=False):
            for (n, checksums), found in probes.items():
                found.append(start_probe(stores[n], checksums, batch, cold, steady, most, seed + repeat))
        megabytes = {n: sum(file.stat().st_size for file in stores[n].iterdir()) / 1e6 for n in counts}
    base = median([p["pairs_per_s"] for p in probes[counts[0], True]])
    rows = [
        {
            "pairs": n,
            "store_mb": megabytes[n],
            "files": -(-n // shard_size),
            "checksums": "yes" if checksums else "no",
            **{name: median([p[name] for p in found]) for name in COLUMNS},
            "spread": spread([p["pairs_per_s"] for p in found]),
            "of_smallest": median([p["pairs_per_s"] for p in found]) / base,
            "batches": median([p["batches"] for p in found]),
        }
        for (n, checksums), found in probes.items()
    ]
    return Result(
        {f"Stores of {'×'.join(map(str, shape))}, batch {batch}; MB above the process's own": rows},
        claims(rows),
    )


COLUMNS = (
    "opening_s",
    "opening_mb",
    "resident_mb",
    "peak_mb",
    "cold_pairs_per_s",
    "pairs_per_s",
    "pairs_per_cpu_s",
)


def start_probe(
    folder: Path, checksums: bool, batch: int, cold: int, steady: int, most: float, seed: int
) -> dict[str, Any]:
    """Open and read a store in a process of its own."""
    sizes = {"batch": batch, "cold": cold, "steady": steady, "most": most, "seed": seed}
    words = [f"--{name}={value}" for name, value in sizes.items()] + ([] if checksums else ["--no-checksums"])
    return json.loads(output_of("-m", "benchmarks.probe", str(folder), *words).splitlines()[-1])


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """The aims for the largest store, read as a user reads it (with checksums)."""
    row = [row for row in rows if row["checksums"] == "yes"][-1]
    return [
        Claim("opening, with the first batch", "< 1 s", f"{row['opening_s']:.3f} s", row["opening_s"] < 1),
        Claim(
            "memory at its peak, above the process's own",
            "< 300 MB",
            f"{row['peak_mb']:.0f} MB",
            row["peak_mb"] < 300,
        ),
        Claim(
            "steady throughput, of the smallest store's",
            "≥ 0.5",
            f"{row['of_smallest']:.2f}",
            row["of_smallest"] >= 0.5,
        ),
    ]
