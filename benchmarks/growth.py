"""How a training step grows with the network's parameters and with processes that share it, and generation
with its batch.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from flowlit.metrics.cost import count_macs, count_parameters

from . import at_once
from .data import write_store
from .fast import fit_seconds
from .probe import forget_peak, memory
from .processes import ROOT, output_of
from .report import Claim, Result
from .timing import median, ratios, spread
from .training import student

SIZES = ("unet_3m_32", "unet_7m_32", "unet_16m_32", "unet_28m_32", "unet_62m_32")
MIDDLE = {
    "resolution": 16,
    "in_channels": 3,
    "width": 32,
    "multipliers": [1, 2],
    "blocks": 2,
    "attention_resolutions": [8],
}
QUICK = {
    "sizes": SIZES[:2],
    "batch": 2,
    "steps": 1,
    "repeats": 1,
    "shared": 4,
    "shared_steps": 2,
    "counts": (16, 32),
}
PAIRS = 256


def run(
    sizes: tuple[str, ...] = SIZES,
    middle: str = SIZES[2],
    batch: int = 8,
    steps: int = 2,
    repeats: int = 3,
    shared: int = 64,
    shared_steps: int = 20,
    counts: Sequence[int] = (16, 32, 64, 128, 256),
    seed: int = 0,
) -> Result:
    """Take steps of annealing reflow with flowlit's fast options on the CPU.

    Args:
        sizes: fragments of ``experiments/parts/networks``, growing.
        middle: that of the student which generates.
        batch: of their steps.
        steps: of a turn.
        repeats: turns; each of the processes' is a run of its own.
        shared: batch of the steps that processes share, a thread each.
        shared_steps: of a turn.
        counts: images that it generates at once, growing.
        seed: of noise and weights.
    """
    networks = [
        parameters_row(arguments(size), batch, steps, repeats, seed)
        for size in tqdm(sizes, desc="Sizes", leave=False)
    ]
    first = networks[0]
    for row in networks:
        row["s per GMAC, of the smallest"] = (row["seconds"] / row["GMACs"]) / (
            first["seconds"] / first["GMACs"]
        )
        row["MB per parameter, of the smallest"] = (row["peak_mb"] / row["parameters"]) / (
            first["peak_mb"] / first["parameters"]
        )
    laps: dict[int, list[float]] = {1: [], 2: []}
    for _ in tqdm(range(repeats), desc="Processes", leave=False):
        for devices, of in laps.items():
            of.append(start(devices, shared, shared_steps, seed))
    processes = [
        {
            "processes": devices,
            "seconds": median(of),
            "spread": spread(of),
            "images_per_s": shared / median(of),
        }
        for devices, of in laps.items()
    ]
    generated = at_once.table(student(arguments(middle), seed), counts, repeats, seed)
    last, cores = networks[-1], len(os.sched_getaffinity(0))
    tables: dict[str, list[Any]] = {
        f"A reflow step at 3×32×32, batch {batch}, by parameters; MB above the process's own": networks,
        f"A reflow step at 3×16×16, batch {shared} in all, a thread a process": processes,
        "One evaluation at 3×32×32, by the images in it": generated,
    }
    return Result(tables, [*claims(last, median(ratios(laps[1], laps[2])), cores), *batch_claims(generated)])


def claims(last: dict[str, Any], ratio: float, cores: int) -> list[Claim]:
    """Time grows as the arithmetic does, memory no faster than parameters; two processes are nearly twice as
    fast.
    """
    time, room = last["s per GMAC, of the smallest"], last["MB per parameter, of the smallest"]
    aim = "≥ 1.6" if cores > 1 else "–"
    return [
        Claim("time of a multiplication, largest network over smallest", "≤ 1.2", f"{time:.2f}", time <= 1.2),
        Claim("memory of a parameter, largest network over smallest", "≤ 1", f"{room:.2f}", room <= 1),
        Claim(f"two processes over one ({cores} cores)", aim, f"{ratio:.2f}", ratio >= 1.6 or cores < 2),
    ]


def batch_claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """In parts an image takes no longer in a large batch than in a small one, and is the same bits."""
    found, same = [], all(row["same_bits"] for row in rows)
    for kind in dict.fromkeys(row["precision"] for row in rows):
        of = [row["parts_ms"] for row in rows if row["precision"] == kind]
        claim = f"time of an image in parts, largest batch over smallest, {kind}"
        found.append(Claim(claim, "≤ 1.2", f"{of[-1] / of[0]:.2f}", of[-1] <= 1.2 * of[0]))
    return [*found, Claim("images in parts, bit for bit", "equal", "equal" if same else "others", same)]


def arguments(size: str) -> dict[str, Any]:
    """Arguments of the network of a fragment."""
    content = yaml.safe_load((ROOT / "experiments/parts/networks" / f"{size}.yaml").read_text())
    return content["model"]["init_args"]["network"]["init_args"]


def parameters_row(
    network: dict[str, Any], batch: int, steps: int, repeats: int, seed: int
) -> dict[str, Any]:
    """Steps of one network, in a process of its own."""
    laps = [
        json.loads(start_process("--network", json.dumps(network), *words(1, batch, steps, seed)))
        for _ in range(repeats)
    ]
    net, seconds = student(network, seed), [lap["seconds"] for lap in laps]
    return {
        "parameters": count_parameters(net),
        "GMACs": count_macs(net).all / 1e9,
        "seconds": median(seconds),
        "spread": spread(seconds),
        "images_per_s": batch / median(seconds),
        "peak_mb": median([lap["peak_mb"] for lap in laps]),
    }


def start(devices: int, batch: int, steps: int, seed: int) -> float:
    """Seconds of a step that processes share, started as ``flowlit fit`` starts them."""
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    output = start_process("--network", json.dumps(MIDDLE), *words(devices, batch, steps, seed), **one_thread)
    return float(json.loads(output)["seconds"])


def words(devices: int, batch: int, steps: int, seed: int) -> list[str]:
    """Arguments of the process."""
    return [f"--devices={devices}", f"--batch={batch}", f"--steps={steps}", f"--seed={seed}"]


def start_process(*given: str, **environment: str) -> str:
    """The last line that a process of this module prints."""
    lines = output_of("-m", "benchmarks.growth", *given, **environment).splitlines()
    return next(line for line in reversed(lines) if line.startswith("{"))


def probe(network: dict[str, Any], devices: int, batch: int, steps: int, seed: int) -> dict[str, float]:
    """Seconds of a step, and MB at its peak."""
    net = student(network, seed)
    with tempfile.TemporaryDirectory(prefix="flowlit-growth-") as folder:
        store = write_store(Path(folder) / "pairs", PAIRS, net.shape, "float16", "float16", seed=seed)
        forget_peak()
        before = memory()["VmRSS"]
        seconds = fit_seconds(net, store, batch, steps, 1, "cpu", devices=devices)
        return {"seconds": seconds, "peak_mb": memory()["VmHWM"] - before}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", type=json.loads, required=True)
    for name in ("devices", "batch", "steps", "seed"):
        parser.add_argument(f"--{name}", type=int, required=True)
    result = probe(**vars(parser.parse_args()))
    if os.environ.get("LOCAL_RANK", "0") == "0":  # the others print beside it, and lines would mix
        print(json.dumps(result))
