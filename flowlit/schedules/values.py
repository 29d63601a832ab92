"""Values as functions of the optimizer step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import FlowlitError
from ..ranges import Float, Int, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from ..types import Schedule


@dataclass
class Constant(Schedule):
    """Stay at ``value``."""

    value: Float

    def __call__(self, step: int) -> float:
        return self.value


@dataclass
class Linear(Schedule):
    """Go from ``start`` to ``end`` in a straight line over ``steps`` optimizer steps, then stay.

    >>> Linear(steps=100)(25)
    0.75
    """

    steps: PositiveInt
    start: Float = 1.0
    end: Float = 0.0

    def __call__(self, step: int) -> float:
        return self.start + (self.end - self.start) * min(1.0, step / self.steps)


@dataclass
class Cosine(Schedule):
    """Go from ``start`` to ``end`` along half a cosine over ``steps`` optimizer steps, then stay."""

    steps: PositiveInt
    start: Float = 1.0
    end: Float = 0.0

    def __call__(self, step: int) -> float:
        share = (1 + math.cos(math.pi * min(1.0, step / self.steps))) / 2
        return self.end + (self.start - self.end) * share


@dataclass
class Exponential(Schedule):
    """Decay as ``start`` · exp(-step / scale); never exactly 0."""

    scale: PositiveFloat
    start: Float = 1.0

    def __call__(self, step: int) -> float:
        return self.start * math.exp(-step / self.scale)


@dataclass
class Piecewise(Schedule):
    """Join (step, value) points by straight lines; constant before the first and after the last.

    >>> Piecewise([(0, 1.0), (10, 0.5), (30, 0.0)])(20)
    0.25
    """

    points: list[tuple[Int, Float]]

    def __post_init__(self) -> None:
        steps = [step for step, _ in self.points]
        if not steps or steps != sorted(set(steps)):
            raise FlowlitError(f"Piecewise: expected points with increasing steps, found {self.points}")

    def __call__(self, step: int) -> float:
        for (s0, v0), (s1, v1) in zip(self.points, self.points[1:], strict=False):
            if step < s1:
                return v0 + (v1 - v0) * max(0.0, (step - s0) / (s1 - s0))
        return self.points[-1][1]


@dataclass
class Geometric(Schedule):
    """Multiply ``start`` by ``factor`` every ``every`` optimizer steps.

    >>> [Geometric(every=10)(step) for step in (0, 9, 10, 30)]
    [2.0, 2.0, 4.0, 16.0]
    """

    every: PositiveInt
    start: Float = 2.0
    factor: PositiveFloat = 2.0

    def __call__(self, step: int) -> float:
        return self.start * self.factor ** (step // self.every)


@dataclass
class Sigmoid(Schedule):
    """Go from 1 to 0 along a sigmoid between two optimizer steps, and stay at ``least`` below that.

    AlphaFlow's share of the data's leg (2510.20771): 1 - sigmoid(sharpness ((step - begin) / (end - begin) -
    1/2)).
    """

    begin: NonNegativeInt
    end: PositiveInt
    sharpness: PositiveFloat = 25.0
    least: NonNegativeFloat = 0.005

    def __post_init__(self) -> None:
        if self.begin >= self.end:
            raise FlowlitError(f"Sigmoid: expected begin < end, found begin={self.begin}, end={self.end}")

    def __call__(self, step: int) -> float:
        place = (step - self.begin) / (self.end - self.begin) - 0.5
        return max(self.least, (1 - math.tanh(self.sharpness * place / 2)) / 2)
