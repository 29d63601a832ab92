"""Measurements of a configuration."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Line:
    """Bytes as a straight line over samples, through two measurements.

    >>> Line.through((2, 30), (4, 50))(128)
    1290
    """

    fixed: float
    each: float

    @classmethod
    def through(cls, a: tuple[int, int], b: tuple[int, int]) -> Line:
        each = (b[1] - a[1]) / (b[0] - a[0])
        return cls(a[1] - each * a[0], each)

    def __call__(self, samples: int) -> int:
        return max(0, round(self.fixed + self.each * samples))


@dataclass
class Step:
    """An optimizer step on this device."""

    samples: int
    seconds: float
    pairs: float
    """Seconds in which the coupling completed its pairs; on a GPU perhaps beside the step."""


@dataclass
class Made:
    """Images that a solver generated."""

    samples: int
    seconds: float
    nfe: float


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
    activations: Line | None = None
    peak: tuple[int, int] | None = None
    """Samples, and the most bytes that a step with them allocated on a GPU."""
    step: Step | None = None
    made: dict[str, Made] = field(default_factory=dict)

    def memory(self, samples: int) -> int | None:
        """Bytes that a training step with so many samples on the device needs at least."""
        if self.optimizer is None or self.activations is None:
            return None
        return (
            self.weights
            + self.frozen
            + self.resident
            + self.gradients
            + self.optimizer
            + self.activations(samples)
        )
