"""What an image takes on a CPU when more of them are generated at once: all in one batch, and in parts as
flowlit takes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from flowlit._support.batch_invariance import BatchInvariant

from .figure import in_turns
from .timing import median, ratios, spread, wall


def table(network: nn.Module, counts: Sequence[int], repeats: int, seed: int) -> list[dict[str, Any]]:
    """One evaluation of as many images, in float32 and in bfloat16, in turns; ms an image, and ms in parts.

    The bits are the same both ways, which is looked at.
    """
    network = network.eval().requires_grad_(False)
    x = torch.randn(max(counts), *network.shape, generator=torch.Generator().manual_seed(seed))  # type: ignore[misc]
    rows = []
    for kind in (torch.float32, torch.bfloat16):
        ways = {"whole": network, "parts": BatchInvariant(network)}
        for count in counts:
            took = {name: partial(evaluated, velocity, x[:count], kind) for name, velocity in ways.items()}
            whole, parts = (work() for work in took.values())
            laps = in_turns({name: partial(ms_an_image, work, count) for name, work in took.items()}, repeats)
            gain = ratios(laps["whole"], laps["parts"])
            rows.append(
                {
                    "images": count,
                    "precision": str(kind).removeprefix("torch."),
                    **{f"{name}_ms": median(of) for name, of in laps.items()},
                    "ratio": median(gain),
                    "spread": spread(gain),
                    "same_bits": torch.equal(whole, parts),
                }
            )
    return rows


@torch.inference_mode()
def evaluated(velocity: Callable[[Tensor, Tensor], Tensor], x: Tensor, kind: torch.dtype) -> Tensor:
    """The velocity at t = 0."""
    with torch.autocast("cpu", torch.bfloat16, enabled=kind != torch.float32):
        return velocity(x, torch.zeros(len(x)))


def ms_an_image(work: Callable[[], Tensor], count: int) -> float:
    """Milliseconds an image of one evaluation."""
    return 1000 * wall(work) / count
