"""Mean, covariance and Fréchet distance: flowlit against torch-fidelity and plain NumPy/SciPy; time,
agreement, memory.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.linalg import sqrtm
from torch import Tensor
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
from tqdm import tqdm

from flowlit.metrics.feature_cache import FeatureCache
from flowlit.metrics.frechet import Moments, frechet_distance, frechet_estimates

from .probe import forget_peak, memory
from .processes import output_of
from .report import Claim, Result
from .timing import median, spread

BLOCK = 1000
OURS, HALVES, THEIRS, PLAIN = (
    "flowlit",
    "flowlit, half and jackknife",
    "torch-fidelity",
    "NumPy and SciPy's sqrtm",
)
KINDS = {
    "stream": "flowlit: stream into Moments",
    "bank": "flowlit: Bank, gathered",
    "list": "torch-fidelity: features in memory",
}
QUICK = {"counts": (300, 1000), "dim": 64, "reference": 500, "repeats": 1, "plain": (1000,)}


def run(
    counts: Sequence[int] = (1_000, 10_000, 50_000),
    dim: int = 2048,
    reference: int = 10_000,
    repeats: int = 3,
    plain: Sequence[int] = (10_000,),
    seed: int = 0,
) -> Result:
    """Compare statistics and distances on the same features, then memory, each in a process of its own.

    Args:
        counts: features, growing.
        dim: of a feature.
        reference: features of another law, from which the distance is taken.
        repeats: of everything that is timed, but for the two slow ones (half and jackknife, and sqrtm), which
            run once.
        plain: counts at which sqrtm is timed, too.
        seed: of the features.
    """
    memories = [
        {"what": KINDS[kind], "features": n, **start_probe(kind, n, dim, seed)}
        for n in tqdm(counts, desc="Memory", leave=False)
        for kind in KINDS
    ]
    real = torch.cat(list(features(reference, dim, seed + 1, shift=0.05)))
    times: list[dict[str, Any]] = []
    values: list[dict[str, Any]] = []
    for n in tqdm(counts, desc="FeatureExtractor", leave=False):
        generated = torch.cat(list(features(n, dim, seed)))
        found, value = compare(generated, real, repeats, n in plain)
        times += [{"features": n, **row} for row in found]
        values.append({"features": n, **value})
    title = f"Fréchet distance of N features of dimension {dim} from {reference:,} others, given by moments"
    tables: dict[str, list[Any]] = {
        title: times,
        "The same number": values,
        "MB above the process's own at its peak; anonymous leaves out the pages of files": memories,
    }
    return Result(tables, claims(times, values, memories))


def features(num: int, dim: int, seed: int, shift: float = 0.0) -> Iterator[Tensor]:
    """Blocks of correlated features that are never negative, as those after a ReLU; row blocks depend on
    (seed, place) alone.
    """
    mixing = torch.randn(256, dim, generator=torch.Generator().manual_seed(0)) / 16
    for first in range(0, num, BLOCK):
        generator, rows = torch.Generator().manual_seed(1_000_003 * seed + first), min(BLOCK, num - first)
        hidden = torch.randn(rows, len(mixing), generator=generator)
        yield torch.relu(hidden @ mixing + 0.5 * torch.randn(rows, dim, generator=generator) + 0.3 + shift)


# time
# and agreement


def ways() -> dict[str, tuple[Callable[[Tensor], Any], Callable[[Any, Any], float]]]:
    """Statistics and distance of each contender."""
    return {
        OURS: (flowlit_statistics, lambda a, b: frechet_distance(*a, *b)),
        THEIRS: (
            fid_features_to_statistics,
            lambda a, b: fid_statistics_to_metric(a, b, False)[KEY_METRIC_FID],
        ),
        PLAIN: (plain_statistics, plain_distance),
    }


def flowlit_statistics(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance as FID takes them, block by block."""
    moments = Moments(rows.shape[1])
    for block in rows.split(BLOCK):
        moments.update(block)
    return moments.compute()


def plain_statistics(rows: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance in float64, of everything at once."""
    whole = rows.numpy().astype(np.float64)
    return whole.mean(0), np.cov(whole, rowvar=False)


def plain_distance(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> float:
    """By the square root of a product that is not symmetric, as research code does."""
    root = sqrtm(a[1] @ b[1])
    return float(np.sum((a[0] - b[0]) ** 2) + np.trace(a[1]) + np.trace(b[1]) - 2 * np.trace(root).real)


def compare(
    generated: Tensor, real: Tensor, repeats: int, plain: bool
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Time each contender on the same features, in turn; compare what they found."""
    laps: dict[str, list[tuple[float, float, float, float]]] = {}
    found: dict[str, float] = {}
    theirs = {name: statistics(real) for name, (statistics, _) in ways().items() if plain or name != PLAIN}
    for repeat in range(repeats):
        for name in theirs:
            if name == PLAIN and repeat:
                continue
            statistics, distance = ways()[name]
            mine, *first = timed(lambda s=statistics: s(generated))  # type: ignore[misc]
            found[name], *second = timed(lambda d=distance, m=mine, t=theirs[name]: d(m, t))  # type: ignore[misc]
            laps.setdefault(name, []).append((first[0], second[0], first[1], second[1]))
    estimates, seconds, cpu = timed(lambda: frechet_estimates(generated, *theirs[OURS]))
    found[HALVES] = estimates["fid"].value
    rows = [
        {
            "what": name,
            "statistics_s": median([lap[0] for lap in of]),
            "distance_s": median([lap[1] for lap in of]),
            "statistics_cpu_s": median([lap[2] for lap in of]),
            "distance_cpu_s": median([lap[3] for lap in of]),
            "total_s": median([lap[0] + lap[1] for lap in of]),
            "total_cpu_s": median([lap[2] + lap[3] for lap in of]),
            "spread": spread([lap[0] + lap[1] for lap in of]),
            "runs": len(of),
        }
        for name, of in laps.items()
    ]
    rows.append({"what": HALVES, "total_s": seconds, "total_cpu_s": cpu, "runs": 1})
    for row in rows:
        row["cpu_of_flowlit"] = row["total_cpu_s"] / rows[0]["total_cpu_s"]
    value: dict[str, Any] = {
        OURS: found[OURS],
        "jackknife": estimates["fid"].spread,
        "half": estimates["fid_half"].value,
    }
    for name, other in ((THEIRS, found[THEIRS]), (PLAIN, found.get(PLAIN)), (HALVES, found[HALVES])):
        if other is not None:
            difference = abs(found[OURS] - other)
            value |= {f"{name}: difference": difference, f"{name}: relative": difference / abs(other)}
    return rows, value


def timed(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """What it returns, seconds on the clock, and seconds of processor time of all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = call()
    return found, time.perf_counter() - wall, time.process_time() - cpu


# memory


class Anonymous(threading.Thread):
    """The most memory that belongs to no file, in MB, looked at every few milliseconds."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.done = self.now(), threading.Event()

    @staticmethod
    def now() -> float:
        _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
        return (resident - shared) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def run(self) -> None:
        while not self.done.wait(0.005):
            self.most = max(self.most, self.now())


def probe(kind: str, num: int, dim: int, seed: int) -> dict[str, float]:
    """Take statistics of a stream of features in one of three ways; tell the memory above that before."""
    eye = (torch.zeros(dim, dtype=torch.float64), torch.eye(dim, dtype=torch.float64))
    frechet_distance(
        *flowlit_statistics(next(features(BLOCK, dim, seed))), *eye
    )  # what any distance needs, and the libraries
    forget_peak()
    before, watcher = memory(), Anonymous()
    start, begin = watcher.most, time.perf_counter()
    watcher.start()
    if kind == "stream":
        moments = Moments(dim)
        for rows in features(num, dim, seed):
            moments.update(rows)
        moments.compute()
    elif kind == "bank":
        with tempfile.TemporaryDirectory(prefix="flowlit-statistics-") as folder:
            bank, place = FeatureCache(Path(folder)), 0
            for rows in features(num, dim, seed):
                bank.add({"index": torch.arange(place, place + len(rows)), "features": rows})
                place += len(rows)
            bank.flush()
            with bank.gathered("features", num) as gathered:
                frechet_estimates(gathered, *eye, groups=2)
    else:
        fid_features_to_statistics(torch.cat(list(features(num, dim, seed))))
    watcher.done.set()
    watcher.join()
    seconds = time.perf_counter() - begin
    return {
        "anonymous_mb": watcher.most - start,
        "resident_mb": memory()["VmHWM"] - before["VmRSS"],
        "seconds": seconds,
    }


def start_probe(kind: str, num: int, dim: int, seed: int) -> dict[str, float]:
    """Run ``probe`` in a process of its own."""
    output = output_of("-m", "benchmarks.statistics", kind, f"--num={num}", f"--dim={dim}", f"--seed={seed}")
    return json.loads(output.splitlines()[-1])


def claims(
    times: list[dict[str, Any]], values: list[dict[str, Any]], memories: list[dict[str, Any]]
) -> list[Claim]:
    """Not slower than torch-fidelity, the same number, flat memory."""
    found = []
    for n in dict.fromkeys(row["features"] for row in times):
        cost = {row["what"]: row for row in times if row["features"] == n}
        for part in ("statistics", "distance"):
            ratio = cost[THEIRS][f"{part}_cpu_s"] / cost[OURS][f"{part}_cpu_s"]
            found.append(
                Claim(
                    f"{n:,}: torch-fidelity's processor time for the {part}",
                    "≥ 1",
                    f"{ratio:.2f}",
                    ratio >= 1,
                )
            )
    for value in values:
        off = value[f"{THEIRS}: relative"]
        found.append(
            Claim(
                f"{value['features']:,}: relative difference, torch-fidelity",
                "≤ 1e-4",
                f"{off:.1e}",
                off <= 1e-4,
            )
        )
    for kind in ("stream", "bank"):
        for part in ("anonymous", "resident"):
            peaks = [row[f"{part}_mb"] for row in memories if row["what"] == KINDS[kind]]
            more = peaks[-1] - peaks[0]
            found.append(
                Claim(f"{KINDS[kind]}: growth of {part} memory", "≤ 50 MB", f"{more:.0f} MB", more <= 50)
            )
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    for word in ("num", "dim", "seed"):
        parser.add_argument(f"--{word}", type=int, required=True)
    print(json.dumps(probe(**vars(parser.parse_args()))))
