"""Timing side by side: contenders take turns, so that a busy moment of the machine meets all of them."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from tqdm import tqdm


class Lap(NamedTuple):
    """One turn of one contender."""

    samples: int
    seconds: float
    cpu_seconds: float  # of all threads of this process: hardly depends on what else runs on the machine


def lap(turn: Callable[[], int], device: str = "cpu") -> Lap:
    """Time one turn, which returns how many samples it handled."""
    finished(device)
    wall, cpu = time.perf_counter(), time.process_time()
    samples = turn()
    finished(device)
    return Lap(samples, time.perf_counter() - wall, time.process_time() - cpu)


def interleaved(
    contenders: Mapping[str, Callable[[], int]], repeats: int, device: str = "cpu"
) -> dict[str, list[Lap]]:
    """Let each contender take a turn, ``repeats`` times over, after one turn to warm up."""
    for turn in contenders.values():
        turn()
    laps: dict[str, list[Lap]] = {name: [] for name in contenders}
    for _ in tqdm(range(repeats), desc="Repeats", leave=False):
        for name, turn in contenders.items():
            laps[name].append(lap(turn, device))
    return laps


def finished(device: str) -> None:
    """Wait until a device has done all that it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def wall(work: Callable[[], object], device: str = "cpu") -> float:
    """Seconds of a piece of work, until the device has done it."""
    finished(device)
    begin = time.perf_counter()
    work()
    finished(device)
    return time.perf_counter() - begin


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def spread(values: Sequence[float]) -> str:
    """Smallest and largest."""
    return (
        f"{min(values):,.4g} … {max(values):,.4g}"
        if max(values) < 1000
        else f"{min(values):,.0f} … {max(values):,.0f}"
    )


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """One contender over another, turn by turn."""
    return [one / other for one, other in zip(above, below, strict=True)]


def quartiles(values: Sequence[float]) -> str:
    """Between which values the middle half lies."""
    low, _, high = (
        statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else (values[0],) * 3
    )
    return f"{low:,.4g} … {high:,.4g}"


def likely(values: Sequence[float]) -> str:
    """Where the median of endless repetition lies, 19 times of 20: between two of the values, by their ranks;
    – if there are few.

    >>> likely(range(100))
    '39 … 60'
    """
    ordered, number = sorted(values), len(values)
    far = math.ceil(
        0.98 * math.sqrt(number) + 0.5
    )  # ranks are binomial, with a standard deviation of half the square root
    low, high = number // 2 - far, (number - 1) // 2 + far
    return f"{ordered[low]:,.4g} … {ordered[high]:,.4g}" if low >= 0 else "–"


def rates(laps: Sequence[Lap]) -> list[float]:
    """Samples per second of each turn."""
    return [one.samples / one.seconds for one in laps]


def cpu_rates(laps: Sequence[Lap]) -> list[float]:
    """Samples per second of processor time."""
    return [one.samples / one.cpu_seconds for one in laps]
