"""Euler's rule with two numbers a step, which make up for the rounding of a network's weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from ..errors import FlowlitError
from ..paths.straight import expand
from ..ranges import Float, PositiveInt
from .base import Counted, SingleStep, Step


@dataclass
class ScaledEuler(SingleStep):
    """x ← a x + Δ b v(x, t), with numbers a and b of each step. NFE = steps.

    Of rounded networks, whose velocity has another size than that of the network as it was trained: ``flowlit
    quantise`` chooses them. After Q-Sched (2509.01624). It cannot run in reverse.

    Args:
        steps: intervals, at least 1.
        scales: [a, b] of each step; empty is 1 for all, which is ``Euler``.
    """

    one_way: ClassVar[str] = "goes from noise to images alone"

    steps: PositiveInt = 1
    scales: list[list[Float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        pairs = [list(pair) for pair in self.scales]
        if any(len(pair) != 2 for pair in pairs) or len(pairs) not in (0, self.steps):
            raise FlowlitError(
                f"ScaledEuler: scales are {self.scales!r:.80}; expected [a, b] for each of {self.steps} steps"
            )

    def rule(self, x0: Tensor) -> Step:
        """Return the rule for x0 (B, C, H, W), whose n-th call is the n-th step."""
        pairs = iter(self.scales or [[1.0, 1.0]] * self.steps)

        def step(v: Counted, x: Tensor, v_t: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
            a, b = next(pairs)
            return a * x + b * (expand(t_next - t, x) * v_t)

        return step
