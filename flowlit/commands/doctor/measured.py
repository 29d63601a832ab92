"""Measurements of a configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import LinearRegression
from typing import NamedTuple

from ..._support.batch_invariance import BLOCK


@dataclass
class Step:
    """An optimizer step on this device."""

    samples: int
    seconds: float
    pairs: float
    """Seconds in which the coupling completed its pairs; on a GPU perhaps beside the step."""


@dataclass
class Made:
    """Images that a solver generated; none of a solver if the module has none, and only validates."""

    samples: int
    seconds: float
    nfe: float
    batch: int
    """Samples that the run takes at a time."""

    @property
    def each(self) -> float:
        """Seconds of a sample in the run, which computes whole blocks of rows, as was done here."""
        return self.seconds / _whole(self.samples) * _whole(self.batch) / self.batch


def _whole(rows: int) -> int:
    return rows + -rows % BLOCK


class Work(NamedTuple):
    """Work that takes a GPU its time."""

    flops: float
    """Floating-point operations of matrix products and convolutions."""
    launches: float
    """Operations of PyTorch: what a processor starts on the GPU, one after the other."""


@dataclass
class Measured:
    """Bytes and seconds; None where there was nothing to measure, or it failed."""

    free: int = 0
    """On the device, before anything was put there."""
    weights: int = 0
    frozen: int = 0
    gradients: int = 0
    resident: int = 0
    optimizer: int | None = None
    checkpoint: int | None = None
    activations: LinearRegression | None = None
    """Bytes that are kept for backward, as a straight line over samples."""
    peak: tuple[int, int] | None = None
    """Samples, and the most bytes that a step with them allocated on a GPU."""
    step: Step | None = None
    made: dict[str, Made] = field(default_factory=dict)
    trained: Work | None = None
    """Work of a training step, its products for one sample."""
    evaluated: Work | None = None
    """Work of an evaluation of the network that generates, its products for one image."""

    def parts(self, samples: int) -> dict[str, int]:
        """Bytes of a training step with so many samples on the device, by what takes them."""
        line = self.activations
        activations = round(line.slope * samples + line.intercept) if line else 0
        return {
            "weights and averages": self.weights,
            "frozen networks": self.frozen,
            "gradients": self.gradients,
            "optimizer": self.optimizer or 0,
            "resident pairs": self.resident,
            f"kept for backward, {samples} samples": activations,
        }

    def memory(self, samples: int) -> int | None:
        """Bytes that a training step with so many samples on the device needs at least."""
        measured = self.optimizer is not None and self.activations is not None
        return sum(self.parts(samples).values()) if measured else None
