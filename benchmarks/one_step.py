"""One-step generation, noise to pixels: images in large batches, and the latency of a single one."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import nn

from flowlit import Generator
from flowlit.data import Pixels
from flowlit.metrics.cost import count_macs
from flowlit.solvers import Euler

from . import research
from .figure import PRODUCTS, Aim, Figure, floats_a_second, in_turns
from .timing import wall

FAST: dict[str, dict[str, Any]] = {
    "cpu": {"precision": "bf16"},
    "cuda": {"precision": "bf16", "channels_last": True, "compile": True, "graphs": True},
}


def flowlit_generator(network: nn.Module, device: str, blocks: bool) -> Callable[[int], object]:
    """flowlit's generator with the fast options of a device: number of images -> uint8 (N, C, H, W), on the
    CPU.
    """
    plain = Generator(deepcopy(network).to(device).eval().requires_grad_(False), Euler(1), Pixels())
    fast, shape = plain.faster(**FAST[device], blocks=blocks), network.shape
    return lambda number: fast(torch.randn(number, *shape, device=device)).cpu()  # type: ignore[misc]


def figures(network: nn.Module, images: int, repeats: int, device: str) -> list[Figure]:
    """Seconds an image in a large batch, and for one image alone, each against float32 in eager mode."""
    many = _laps(network, images, repeats, device)
    one = _laps(network, 1, repeats, device, times=10)
    least = 2 * count_macs(network).all / floats_a_second(device, torch.bfloat16)
    latency = "one-step generation, latency of one image"
    return [
        Aim(1.5, 4).figure(
            device, f"one-step generation, batch {images}", *many, "s an image", least, PRODUCTS
        ),
        Aim(None, None, most=0.002).figure(device, latency, *one, "s an image", least, PRODUCTS),
    ]


def _laps(
    network: nn.Module, images: int, repeats: int, device: str, times: int = 1
) -> tuple[list[float], list[float]]:
    """Seconds an image of both, in turns, after two turns to warm up."""
    plain = research.one_step(deepcopy(network), network.shape, device)  # type: ignore[arg-type]
    ours = flowlit_generator(network, device, blocks=images > 1)

    def seconds(generate: Callable[[int], object]) -> float:
        return wall(lambda: [generate(images) for _ in range(times)], device) / times / images

    contenders = {"research": partial(seconds, plain), "flowlit": partial(seconds, ours)}
    for contender in [*contenders.values()] * 2:  # graphs are recorded at the second call
        contender()
    laps = in_turns(contenders, repeats)
    return laps["research"], laps["flowlit"]
