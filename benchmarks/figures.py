"""The figures of speed, each beside a plain baseline in the same run, and beside what the machine could do at
best.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from tqdm import tqdm

from flowlit.metrics.cost import count_parameters

from . import one_step, solving, step_memory
from .data import in_ram, write_store
from .figure import Figure, machine
from .growth import arguments
from .little import average_figures, helps, statistics_figure
from .report import Result
from .training import Steps, overhead, student

STUDENT = "unet_16m_32"
LITTLE = {
    "resolution": 8,
    "in_channels": 3,
    "width": 16,
    "multipliers": [1, 2],
    "blocks": 1,
    "attention_resolutions": [4],
}
QUICK = {
    "batch": 2,
    "turns": 2,
    "repeats": 1,
    "images": 16,
    "features": 300,
    "memory_batch": 2,
    "pairs": 64,
    "network": LITTLE,
    "little_turns": 3,
    "solving_sizes": {key: value for key, value in solving.QUICK.items() if key != "repeats"},
}


def run(
    device: str = "cpu",
    batch: int | None = None,
    turns: int = 40,
    repeats: int = 5,
    images: int = 256,
    features: int = 50_000,
    memory_batch: int = 128,
    pairs: int = 2048,
    network: dict[str, Any] | None = None,
    little_turns: int = 300,
    solving_sizes: dict[str, Any] | None = None,
    seed: int = 0,
) -> Result:
    """Measure everything in turns.

    Args:
        device: "cpu" or "cuda".
        batch: of a training step; None is 16 on a CPU, 128 on a GPU.
        turns: of training steps, a step each on a CPU, ten on a GPU; a third of them where a step takes long.
        repeats: turns of everything else; at most three of what takes long.
        images: generated at a time.
        features: whose mean and covariance are taken.
        memory_batch: of the step whose memory is measured.
        pairs: in the store.
        network: arguments of the student; None is the 15.7M one of CIFAR-10.
        little_turns: of the small network that shows what a step costs beside its arithmetic.
        solving_sizes: as ``solving.measure`` takes them; None are its own.
        seed: of everything drawn.
    """
    gpu, few, given = device == "cuda", min(repeats, 3), network or arguments(STUDENT)
    batch, block = batch or (128 if gpu else 16), 10 if gpu else 1
    net, little = student(given, seed), student(LITTLE, seed)
    with (
        tempfile.TemporaryDirectory(prefix="flowlit-figures-") as name,
        tqdm(total=10, desc="Figures", leave=False) as bar,
    ):

        def prepared(network: Any, batch: int, turns: int) -> Steps:
            store = write_store(
                Path(name) / str(network.shape), pairs, network.shape, "float16", "float16", seed=seed
            )
            return Steps(network, store, in_ram(store), batch, turns, min(3, turns), block, device)

        def take(*measured: Figure) -> list[Figure]:
            bar.update(len(measured))
            return list(measured)

        timed = prepared(net, batch, turns)
        found = take(*timed.figures())
        timed.turns = -(-turns // 3)
        found += take(timed.distillation_figure())
        beside = overhead(prepared(little, 16, little_turns))
        found += take(solving.figure(device, few, seed, **(solving_sizes or {})))
        found += take(*one_step.figures(net, images, few, device))
        found += take(*average_figures(net, device, repeats))
        found += take(statistics_figure(features, seed, device, few))
        found += take(step_memory.figure(given, memory_batch, pairs, device, seed))
    rows, claims = helps(few)
    title = (
        f"Figures; student of {count_parameters(net):,} parameters at {'×'.join(map(str, net.shape))}; "
        "medians"
    )
    tables: dict[str, list[Any]] = {
        f"The machine ({device}), medians": machine(device),
        title: [one.row() for one in found],
        f"A step without arithmetic: {count_parameters(little):,} parameters at 3×8×8, batch 16": beside,
        "Help": rows,
    }
    return Result(tables, [*(claim for one in found for claim in one.claims()), *claims])
