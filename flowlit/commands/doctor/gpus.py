"""Estimates for GPUs that are not here, from counted arithmetic and a fraction of the peak."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from ..._support.formatting import duration, size
from ...callbacks.speed.precision import MatmulPrecision
from ...errors import FlowlitError
from .subject import Subject
from .times import Timing, timings

TERA = 1e12
GIB = 2**30

FRACTION = {"bfloat16": 0.2, "float16": 0.2, "TF32": 0.25, "float32": 0.5}
"""Share of the peak that a training or a generation is taken to reach, by the numbers that are multiplied."""


LAUNCH = 10e-6
"""Seconds that a processor takes to start an operation of PyTorch on a GPU, which small networks wait for."""


class GPU(NamedTuple):
    """Memory in GiB, and TFLOP/s of dense matrix products, with sums in float32; 0 where there are none.

    From NVIDIA's data sheets of T4, V100 (SXM2), A10, L4, L40S, RTX A6000, A100 (SXM), H100 (SXM) and H200,
    from AWS's of A10G, and from the white papers of the architectures GA102 (RTX 3090), Ada (RTX 4090) and
    Blackwell (RTX 5090). Figures "with sparsity" are halved.
    """

    memory: int
    half: float
    tf32: float
    float32: float

    def peak(self, numbers: str) -> tuple[float, str]:
        """Return the most FLOP/s with such numbers, and the numbers: float32 where the GPU lacks the others.

        GPUs without TF32 lack bfloat16, too.
        """
        rates = {"bfloat16": self.half * bool(self.tf32), "float16": self.half, "TF32": self.tf32}
        rate = rates.get(numbers)
        return (rate * TERA, numbers) if rate else (self.float32 * TERA, "float32")


GPUS = {
    "t4": GPU(16, 65, 0, 8.1),
    "v100": GPU(16, 125, 0, 15.7),
    "a10": GPU(24, 125, 62.5, 31.2),
    "a10g": GPU(24, 70, 35, 35),
    "l4": GPU(24, 121, 60, 30.3),
    "l40s": GPU(48, 362, 183, 91.6),
    "a6000": GPU(48, 154.8, 77.4, 38.7),
    "3090": GPU(24, 71, 35.6, 35.6),
    "4090": GPU(24, 165.2, 82.6, 82.6),
    "5090": GPU(32, 209.5, 104.8, 104.8),
    "a100": GPU(80, 312, 156, 19.5),
    "h100": GPU(80, 989.4, 494.7, 66.9),
    "h200": GPU(141, 989.4, 494.7, 66.9),
}
"""By the names that ``--for`` takes."""


def read_gpus(text: str) -> tuple[str, ...]:
    """Return the names in a text with commas, each once.

    >>> read_gpus("A10G, rtx4090,h100")
    ('a10g', '4090', 'h100')

    Raises:
        FlowlitError: if one has no figures here.
    """
    names = [part.strip().lower().removeprefix("rtx").strip(" -_") for part in text.split(",")]
    for name in names:
        if name not in GPUS:
            shown = name[:40]
            raise FlowlitError(f"--for: no figures of a GPU {shown!r}; there are those of {', '.join(GPUS)}")
    return tuple(dict.fromkeys(names))


def numbers_of(s: Subject) -> str | None:
    """Return the numbers that a run multiplies on a GPU; None for those that GPUs have no fast products of.

    In float32, convolutions are in TF32 unless ``MatmulPrecision`` forbids it.
    """
    precision = str(s.trainer.precision).split("-")[0]
    if precision == "64":
        return None
    if precision in ("bf16", "16"):
        return "bfloat16" if precision == "bf16" else "float16"
    exact = [callback.precision == "highest" for callback in s.callbacks(MatmulPrecision)]
    return "TF32" if (torch.backends.cudnn.allow_tf32 and not exact) or exact == [False] else "float32"


def seconds_on(s: Subject, gpu: str) -> list[tuple[str, float | None]]:
    """Return what a run does, each with its seconds on as many GPUs as it has devices; None for unknown ones.

    They share the work evenly, and what they lose by talking to each other is not counted.
    """
    numbers = numbers_of(s)
    if numbers is None:
        return []
    rate, used = GPUS[gpu].peak(numbers)
    works = [timing for timing in timings(s) if not timing.within]
    speed = FRACTION[used] * rate
    return [(each.what, seconds_of_work(each, speed, s.trainer.world_size)) for each in works]


def seconds_of_work(timing: Timing, speed: float, devices: int) -> float | None:
    """Return the seconds of work on devices of so many FLOP/s, or of its launches, whichever are more."""
    if timing.work is None:
        return None
    return timing.number * max(timing.work.flops / speed, timing.work.launches * LAUNCH) / devices


def total_on(s: Subject, gpu: str) -> float | None:
    """Return the seconds of a run on GPUs of a kind; None if any of it is unknown."""
    seconds = [each for _, each in seconds_on(s, gpu)]
    known = [each for each in seconds if each is not None]
    return sum(known) if known and len(known) == len(seconds) else None


def estimates(s: Subject) -> list[list[str]]:
    """Return a table of the time of a run on each GPU of ``--for``, and of the memory."""
    columns = [seconds_on(s, gpu) for gpu in s.gpus]
    if not columns or not columns[0]:
        return []
    rows = [[same[0][0], *(in_words(seconds) for _, seconds in same)] for same in zip(*columns, strict=True)]
    rows.append(["all", *(in_words(total_on(s, gpu)) for gpu in s.gpus)])
    head = f"estimate for {how_many(s)}"
    return [[head, *s.gpus], *rows, *memory_rows(s.measured.memory(s.share), s.gpus)]


def how_many(s: Subject) -> str:
    """Return how many GPUs a run takes, in words: as many as it has devices."""
    devices = s.trainer.world_size
    return f"{devices} GPUs" if devices > 1 else "one GPU"


def memory_rows(needed: int | None, gpus: Sequence[str]) -> list[list[str]]:
    """Return the row that compares the bytes that a step needs on a device at least with that of a GPU."""
    if needed is None:
        return []
    cells = [
        f"{GPUS[gpu].memory} GB{': too little' if needed > GPUS[gpu].memory * GIB else ''}" for gpu in gpus
    ]
    return [[f"memory, {size(needed)} needed", *cells]]


def in_words(seconds: float | None) -> str:
    """Return estimated seconds in the unit that fits, none below a second; a dash if they are unknown."""
    if seconds is None:
        return "–"
    return duration(seconds) if seconds >= 1 else "< 1 s"


def assumption(numbers: str | None, gpus: Sequence[str]) -> str:
    """Return what an estimate rests on, as a line."""
    if numbers is None:
        return "no estimate for GPUs in float64"
    peaks = {gpu: GPUS[gpu].peak(numbers) for gpu in gpus}
    each = [f"{gpu} {FRACTION[used]:.0%} of {rate / TERA:g} in {used}" for gpu, (rate, used) in peaks.items()]
    return (
        "an estimate, not a measurement: counted matrix products at a fraction of the data sheet's TFLOP/s "
        f"({', '.join(each)}), at least {1e6 * LAUNCH:.0f} µs an operation; see docs/doctor.md"
    )
