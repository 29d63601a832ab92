"""What a network costs: parameters, and images per second."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn


def count_parameters(network: nn.Module) -> int:
    """Count all parameters."""
    return sum(p.numel() for p in network.parameters())


def images_per_second(generate: Callable[[], object], images: int, repeats: int = 5) -> float:
    """Call ``generate`` once to warm up, then ``repeats`` times; return images / median seconds."""

    def timed() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        start = time.perf_counter()
        generate()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - start

    timed()
    return images / statistics.median(timed() for _ in range(repeats))
