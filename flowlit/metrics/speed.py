"""Seconds that a network takes, and the rates of the machine."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from .cost import inputs

if TYPE_CHECKING:
    from torch.utils.benchmark import Measurement


class Speed(NamedTuple):
    """Times of evaluations of a network; medians of repeats."""

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
    tick: Callable[[], object] = lambda: None,
) -> Speed:
    """Time one evaluation in inference mode, of one image and of a batch, each after a warm-up.

    Args:
        network: moved to the device, and put into eval mode.
        batch_size: images of the batch; 64 or more fill a GPU.
        repeats: timed calls of each kind, at least two.
        device: on which the network is timed.
        tick: called after every evaluation, for progress.
    """
    network = network.to(device).eval()
    with torch.inference_mode():
        single, batch = (
            timed(partial(network, *inputs(network, size, device)), repeats, device, tick)
            for size in (1, batch_size)
        )
    return Speed(single.median, single.iqr / 2, batch_size / batch.median)


def timed(
    call: Callable[[], object],
    repeats: int,
    device: torch.device | str = "cpu",
    tick: Callable[[], object] = lambda: None,
) -> Measurement:
    """Return the times of ``repeats`` calls, after one that warms up, with their median and quartiles.

    PyTorch's clock waits for what a call leaves a GPU to do. Its ``Timer`` would warm up twice for each time,
    and so take three times as long, which matters where a call generates images.

    Args:
        call: timed as a whole.
        repeats: times to take.
        device: that works.
        tick: called after every call, for progress.
    """
    from torch.utils.benchmark import Measurement, TaskSpec, timer  # slow to import

    times = []
    with torch.cuda.device(device) if torch.device(device).type == "cuda" else nullcontext():
        for _ in range(1 + repeats):
            start = timer()
            call()
            times.append(timer() - start)
            tick()
    return Measurement(1, times[1:], TaskSpec("call()", "", num_threads=torch.get_num_threads()))


def images_per_second(
    generate: Callable[[], object], images: int, repeats: int = 5, device: torch.device | str = "cpu"
) -> float:
    """Call ``generate`` once to warm up, then ``repeats`` times; return images / median seconds."""
    return images / timed(generate, repeats, device).median


def matmul_rate(
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, repeats: int = 5
) -> float:
    """Measure how many floating-point operations a second a device does in products of large square matrices.

    A multiply-accumulate counts as two, so a product of n × n takes 2 n³. The median of some products that
    take 10 ms or more (or have n = 16384); well under a second in all, on a CPU with the threads that PyTorch
    has now. It is what can be reached rather than what a data sheet promises. Products of float32 are made as
    they are set, in TF32 or not.
    """
    own = torch.Generator(device).manual_seed(0)  # other draws stay what they would have been
    size = 256
    while True:
        a, b = (torch.randn(size, size, generator=own, device=device).to(dtype) for _ in range(2))
        product = partial(torch.mm, a, b, out=torch.empty_like(a))
        if size >= 16384 or timed(product, 1, device).median >= 0.01:
            return 2 * size**3 / timed(product, repeats, device).median
        size *= 2


def bandwidth(device: torch.device | str = "cpu", repeats: int = 5) -> float:
    """Measure bytes a second of a device's memory in a large sum of two arrays, read and written.

    The best of some sums of arrays of 1 GiB on a GPU, of 128 MiB on a CPU.
    """
    size = 2**27 if torch.device(device).type == "cpu" else 2**30
    a, b, total = (torch.zeros(size // 4, device=device) for _ in range(3))
    return 3 * size / min(timed(partial(torch.add, a, b, out=total), repeats, device).times)
