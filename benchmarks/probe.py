"""One process that opens one store, reads it, and prints what that took as one line of JSON; started by
``large_store``.
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from flowlit.couplings import Cached

from .data import batches, quiet_trainer, training_loader


def memory() -> dict[str, float]:
    """Resident memory of this process now, and at most since ``forget_peak``, in MB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM")}


def forget_peak() -> None:
    """Start VmHWM again at what is resident now."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def probe(
    folder: str, batch: int, cold: int, steady: int, most: float, checksums: bool, seed: int
) -> dict[str, Any]:
    """Open a store and read it in random order.

    Args:
        folder: of the store.
        batch: pairs at a time.
        cold: batches after the first that count as cold start.
        steady: batches after them.
        most: seconds after which steady reading ends early.
        checksums: as ``Cached`` takes it.
        seed: of the order.
    """
    trainer = quiet_trainer(max_steps=10**9)  # part of every training process, with or without a store
    torch.randn(batch, 3, 32, 32).sum()
    forget_peak()
    before = memory()
    begin = time.perf_counter()
    coupling = Cached(folder, checksums=checksums)
    source = batches(training_loader(coupling, batch, seed, trainer))
    next(source)
    opened, resident = time.perf_counter(), memory()
    for _ in range(cold):
        next(source)
    warm, cpu, done = time.perf_counter(), time.process_time(), 0
    while done < steady and time.perf_counter() - warm < most:
        next(source)
        done += 1
    end, after = time.perf_counter(), memory()
    return {
        "opening_s": opened - begin,
        "opening_mb": resident["VmRSS"] - before["VmRSS"],
        "own_mb": before["VmRSS"],
        "resident_mb": after["VmRSS"] - before["VmRSS"],
        "peak_mb": after["VmHWM"] - before["VmRSS"],
        "cold_pairs_per_s": cold * batch / (warm - opened),
        "pairs_per_s": done * batch / (end - warm),
        "pairs_per_cpu_s": done * batch / (time.process_time() - cpu),
        "batches": 1 + cold + done,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    for name, kind in (("batch", int), ("cold", int), ("steady", int), ("most", float), ("seed", int)):
        parser.add_argument(f"--{name}", type=kind, required=True)
    parser.add_argument("--no-checksums", dest="checksums", action="store_false")
    print(json.dumps(probe(**vars(parser.parse_args()))))
