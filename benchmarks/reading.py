"""Reading pairs at the batch size of training: stores against tensors in memory, and against what a student
consumes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from flowlit.couplings import Cached
from flowlit.networks import UNet
from flowlit.objectives import AnnealedReflow
from flowlit.types import Pair

from .data import batches, in_ram, quiet_trainer, training_loader, write_store
from .report import Claim, Result
from .timing import cpu_rates, interleaved, median, rates, spread

STUDENT = Path(__file__).parent.parent / "experiments" / "slimflow_cifar.yaml"
CPU = torch.device("cpu")
KINDS = (("float16", "float16"), ("float16", "uint8"), ("seed", "uint8"))
QUICK = {"pairs": 1000, "turns": 10, "repeats": 3, "student_batch": 4, "student_repeats": 1}


class InRam(Dataset):
    """Pairs in memory, one item at a time, as research code writes it."""

    def __init__(self, x0: Tensor, x1: Tensor):
        self.x0, self.x1 = x0, x1

    def __len__(self) -> int:
        return len(self.x0)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.x0[index], self.x1[index]


def run(
    pairs: int = 10_000,
    shape: Sequence[int] = (3, 32, 32),
    batch: int = 128,
    turns: int = 50,
    repeats: int = 9,
    student_batch: int = 128,
    student_repeats: int = 3,
    student: dict[str, Any] | None = None,
    seed: int = 0,
) -> Result:
    """Measure readers and the student's step.

    Args:
        pairs: in each store.
        shape: of a sample.
        batch: pairs read at a time.
        turns: batches in one turn.
        repeats: turns of each reader.
        student_batch: samples in a step of the student; its rate hardly depends on it.
        student_repeats: steps of the student.
        student: arguments of its network; None is the 15.7M one of CIFAR-10.
        seed: of data, order and weights.
    """
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory(prefix="flowlit-reading-") as folder:
        stores = {
            (x0, x1): write_store(Path(folder) / f"{x0}-{x1}", pairs, shape, x0, x1) for x0, x1 in KINDS
        }
        laps = interleaved(readers(stores, batch, turns, seed), repeats)
        step = {"student's training step": student_step(student, shape, student_batch)}
        laps |= interleaved(step, student_repeats)
    rows = [
        {
            "what": name,
            "pairs_per_s": median(rates(found)),
            "spread": spread(rates(found)),
            "batches_per_s": median(rates(found)) / (student_batch if name in step else batch),
            "pairs_per_cpu_s": median(cpu_rates(found)),
        }
        for name, found in laps.items()
    ]
    size = "×".join(map(str, shape))
    title = f"Reading {pairs:,} pairs of {size}, batch {batch}, delivered as float32 unless said"
    return Result({title: rows}, claims(rows))


def readers(
    stores: dict[tuple[str, str], Path], batch: int, turns: int, seed: int
) -> dict[str, Callable[[], int]]:
    """Everything that can deliver a batch, as functions that deliver ``turns`` of them."""
    trainer = quiet_trainer(max_steps=10**9)

    def cached(folder: Path, as_stored: bool = False, resident: bool = False) -> Iterator[Any]:
        coupling = Cached(str(folder), resident=resident)
        loader = training_loader(coupling, batch, seed, trainer)
        return (found if as_stored else coupling.complete(found, CPU) for found in batches(loader))

    def per_sample(x0: Tensor, x1: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        data = InRam(x0, x1)
        loader = DataLoader(data, batch, sampler=RandomSampler(data), num_workers=0, drop_last=True)
        return ((a.float(), b.float()) for a, b in batches(loader))

    def direct(x0: Tensor, x1: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            rows = torch.randint(len(x0), (batch,))
            yield x0[rows], x1[rows]

    first = stores[KINDS[0]]
    x0, x1 = in_ram(first)
    found: dict[str, Iterator[Any]] = {
        **{f"store {a}/{b}, left as stored": cached(stores[a, b], as_stored=True) for a, b in KINDS},
        **{f"store {a}/{b}": cached(stores[a, b]) for a, b in KINDS},
        "store float16/float16, resident": cached(first, resident=True),
        "in RAM float32, per sample in a DataLoader": per_sample(x0, x1),
        "in RAM float16, per sample in a DataLoader": per_sample(x0.half(), x1.half()),
        "in RAM float32, one index for the batch": direct(x0, x1),
    }

    def turn(source: Iterator[Any]) -> Callable[[], int]:
        return lambda: sum(len(next(source)[0]) for _ in range(turns))

    return {name: turn(source) for name, source in found.items()}


def student_step(network: dict[str, Any] | None, shape: Sequence[int], batch: int) -> Callable[[], int]:
    """A training step of the student: loss, gradients, clipping, Adam."""
    arguments = network or yaml.safe_load(STUDENT.read_text())["model"]["init_args"]["network"]["init_args"]
    student, objective = UNet(**arguments), AnnealedReflow()
    optimizer = torch.optim.Adam(student.parameters(), lr=2e-4)
    pair = Pair(torch.randn(batch, *shape), torch.randn(batch, *shape).clamp(-1, 1))

    def step() -> int:
        optimizer.zero_grad()
        objective(student, pair)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        return batch

    return step


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """The aims, for each kind of store."""
    rate = {row["what"]: row["pairs_per_s"] for row in rows}
    consumed, plain = rate["student's training step"], rate["in RAM float32, per sample in a DataLoader"]
    found = []
    for name in (name for name in rate if name.startswith("store")):
        times = rate[name] / consumed
        found.append(Claim(f"{name}: times what the student consumes", "≥ 10", f"{times:,.0f}", times >= 10))
        times = rate[name] / plain
        found.append(Claim(f"{name}: times the per-sample DataLoader", "≥ 1", f"{times:.2f}", times >= 1))
    return found
