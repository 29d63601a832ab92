"""One line of the table of figures: a plain baseline, flowlit, an aim, and what the machine could do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from flowlit.metrics.speed import bandwidth, matmul_rate

from .report import Claim
from .timing import likely, median, ratios, spread

PRODUCTS = "multiplications, bfloat16"


@dataclass
class Figure:
    """A figure of the table.

    Args:
        name: what is measured.
        baseline, flowlit: of each turn, in ``unit``, of which less is better.
        unit: of both.
        aim: for baseline over flowlit; None is no aim.
        limit: what the machine could do at best, in ``unit``; None where there is no such limit.
        limited: what by.
        most: what flowlit should take at most, in ``unit``; None is no aim.
        share: of the limit that it should reach; None is no aim.
    """

    name: str
    baseline: Sequence[float]
    flowlit: Sequence[float]
    unit: str
    aim: float | None
    limit: float | None = None
    limited: str = ""
    most: float | None = None
    share: float | None = None

    @property
    def ratios(self) -> list[float]:
        """Baseline over flowlit, turn by turn."""
        return ratios(self.baseline, self.flowlit)

    @property
    def reached(self) -> float | None:
        """Share of the limit."""
        return None if self.limit is None else self.limit / median(self.flowlit)

    def row(self) -> dict[str, Any]:
        """For the table."""
        return {
            "figure": self.name,
            "unit": self.unit,
            "baseline": short(median(self.baseline)),
            "flowlit": short(median(self.flowlit)),
            "ratio": f"{median(self.ratios):.2f}",
            "likely": likely([round(ratio, 3) for ratio in self.ratios]),
            "turns": spread([round(ratio, 2) for ratio in self.ratios]),
            "aim": "–" if self.aim is None else f"≥ {self.aim:g}",
            "limit": "–" if self.limit is None else f"{short(self.limit)} ({self.limited})",
            "reached": "–" if self.reached is None else f"{self.reached:.0%}",
        }

    def claims(self) -> list[Claim]:
        """Whether it reaches each of its aims."""
        ratio, value, reached, claims = median(self.ratios), median(self.flowlit), self.reached, []
        if self.aim is not None:
            claims.append(Claim(self.name, f"≥ {self.aim:g}×", f"{ratio:.2f}×", ratio >= self.aim))
        if self.most is not None:
            claims.append(Claim(self.name, f"≤ {self.most:g} {self.unit}", short(value), value <= self.most))
        if self.share is not None and reached is not None:
            claims.append(
                Claim(self.name, f"≥ {self.share:.0%} of the limit", f"{reached:.0%}", reached >= self.share)
            )
        return claims


def short(value: float) -> str:
    """Three digits."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def floats_a_second(device: str, dtype: torch.dtype) -> float:
    """Floating-point operations a second of matrix products, measured once."""
    return _rate(device, dtype)


@cache
def _rate(device: str, dtype: torch.dtype) -> float:
    return matmul_rate(torch.device(device), dtype)


@cache
def bytes_a_second(device: str) -> float:
    """Bytes a second that a large copy reads and writes, measured once."""
    return bandwidth(torch.device(device))


def machine(device: str) -> list[dict[str, Any]]:
    """What the limits are made of."""
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
    products = [
        {
            "measured": f"matrix products in {name}",
            "value": short(floats_a_second(device, kind) / 1e9),
            "unit": "GFLOP/s",
        }
        for name, kind in kinds.items()
    ]
    return [
        *products,
        {"measured": "copy, read and write", "value": short(bytes_a_second(device) / 1e9), "unit": "GB/s"},
    ]


@dataclass
class Aim:
    """By how much flowlit should be better: on a CPU, and on a GPU; None is no aim. ``most`` and ``share``
    are aims on a GPU.
    """

    cpu: float | None
    cuda: float | None
    most: float | None = None
    share: float | None = None

    def figure(
        self,
        device: str,
        name: str,
        baseline: Sequence[float],
        flowlit: Sequence[float],
        unit: str,
        limit: float | None = None,
        limited: str = "",
    ) -> Figure:
        """A figure with the aim of this device."""
        if device == "cuda":
            return Figure(name, baseline, flowlit, unit, self.cuda, limit, limited, self.most, self.share)
        return Figure(name, baseline, flowlit, unit, self.cpu, limit, limited)


Turn = Callable[[], float]
"""One turn of a contender: what it measured."""


def in_turns(contenders: dict[str, Turn], repeats: int) -> dict[str, list[float]]:
    """Let contenders take turns, so that a busy moment of the machine meets all of them."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, turn in contenders.items():
            found[name].append(turn())
    return found
