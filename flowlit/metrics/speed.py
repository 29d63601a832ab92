"""Seconds that a network takes, and the rates of the machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from .cost import inputs


class Speed(NamedTuple):
    """How fast a network is evaluated; medians of repeats."""

    latency: float
    """Seconds for one image alone."""
    spread: float
    """Half the distance between the quartiles of these seconds."""
    images_per_second: float
    """In batches."""


def measure_speed(
    network: nn.Module,
    batch_size: int,
    repeats: int = 5,
    device: torch.device | str = "cpu",
    tick: Callable[[], Any] = lambda: None,
) -> Speed:
    """Time one evaluation in inference mode, of one image and of a batch, each after a warm-up.

    Args:
        network: moved to the device, and put into eval mode.
        batch_size: images of the batch.
        repeats: timed calls of each kind, at least two.
        device: where.
        tick: called after every evaluation, for progress.
    """
    network = network.to(device).eval()
    with torch.inference_mode():
        single, batch = (
            timed(partial(network, *inputs(network, size, device)), repeats, device, tick)
            for size in (1, batch_size)
        )
    low, median, high = statistics.quantiles(single, n=4, method="inclusive")
    return Speed(median, (high - low) / 2, batch_size / statistics.median(batch))


def timed(
    call: Callable[[], object],
    repeats: int,
    device: torch.device | str | None = None,
    tick: Callable[[], object] = lambda: None,
) -> list[float]:
    """Seconds of each of ``repeats`` calls, after one that warms up; ``tick`` is called after every one."""
    found = []
    for _ in range(1 + repeats):
        found.append(seconds(call, device))
        tick()
    return found[1:]


def seconds(call: Callable[[], object], device: torch.device | str | None = None) -> float:
    """Time a call and what it leaves a GPU to do (that device, or the current one)."""

    def wait() -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize(None if torch.device(device or "cpu").type == "cpu" else device)

    wait()
    start = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - start


def images_per_second(generate: Callable[[], object], images: int, repeats: int = 5) -> float:
    """Call ``generate`` once to warm up, then ``repeats`` times; return images / median seconds."""
    return images / statistics.median(timed(generate, repeats))


def matmul_rate(
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, repeats: int = 5
) -> float:
    """Measure how many floating-point operations a second a device does in products of large square matrices.

    A multiply-accumulate counts as two, so a product of n × n takes 2 n³. The median of some products that
    take 10 ms or more (or have n = 16384); well under a second in all, on a CPU with the threads that PyTorch
    has now. It is what can be reached rather than what a data sheet promises. Products of float32 are made as
    they are set, in TF32 or not.
    """
    # others go on to draw what they would have
    size = 256
    own = torch.Generator(device).manual_seed(0)
    while True:
        a, b = (torch.randn(size, size, generator=own, device=device).to(dtype) for _ in range(2))
        product = partial(torch.mm, a, b, out=torch.empty_like(a))
        if statistics.median(timed(product, 1, device)) >= 0.01 or size >= 16384:
            return 2 * size**3 / statistics.median(timed(product, repeats, device))
        size *= 2


def bandwidth(device: torch.device | str = "cpu", repeats: int = 5) -> float:
    """Measure bytes a second of a device's memory in a large sum of two arrays; what is read and what is
    written count both.

    The best of some sums of arrays of 1 GiB on a GPU, of 128 MiB on a CPU.
    """
    size = 2**27 if torch.device(device).type == "cpu" else 2**30
    a, b, total = (torch.zeros(size // 4, device=device) for _ in range(3))
    return 3 * size / min(timed(partial(torch.add, a, b, out=total), repeats, device))
