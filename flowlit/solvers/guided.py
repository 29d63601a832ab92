"""A solver of the guided velocity: how strongly it is guided becomes a setting of the solver."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .._support.velocities import guided, skipping
from ..errors import FlowlitError
from ..ranges import Float
from ..types import (
    Cond,
    Observer,
    Solution,
    Solver,
    VelocityField,
    evaluations_of,
    label_dropout_of,
    reads_of,
)


class GuidedVelocity:
    """A velocity under guidance of a scale, as ``flowlit.networks.ClassifierFreeGuidance`` has it."""

    def __init__(self, velocity: VelocityField, scale: float):
        self.velocity = velocity
        self.scale = scale
        self.evaluations = evaluations_of(velocity) * (1 if scale in (0, 1) else 2)
        self.reads = reads_of(velocity)

    def skipping(self, names: Sequence[str]) -> AbstractContextManager[None]:
        """Leave parts of the network inside out in the calls inside."""
        return skipping(self.velocity, names)

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = {}) -> Tensor:
        """Return the guided velocity (B, C, H, W) at x (B, C, H, W) and t (B,), under conditions (B, …)."""
        return guided(self.velocity, x, t, cond, scale=self.scale)


@dataclass
class Guided(Solver):
    """Another solver under classifier-free guidance: v(∅) + scale · (v(cond) - v(∅)) is its velocity.

    Several in one evaluation, or one ``flowlit sweep``, show what guidance buys and costs on the same noise.
    Scale 0 is unconditional, 1 conditional; other scales take two evaluations where the solver takes one. Not
    to be confused with ``flowlit.networks.ClassifierFreeGuidance``, which guides for every solver, couplings
    and objectives: take one of them. Ho and Salimans 2022 (2207.12598).

    Args:
        solver: that follows the guided velocity.
        scale: of the guidance.

    Raises:
        FlowlitError: for a solver that is guided already.
    """

    solver: Solver
    scale: Float

    def __post_init__(self) -> None:
        """Refuse guidance upon guidance."""
        if isinstance(self.solver, Guided):
            raise FlowlitError(
                f"Guided: solver is {self.solver!r}, guided already; give the one inside, and one scale"
            )

    def __call__(
        self,
        velocity: VelocityField,
        x0: Tensor,
        cond: Cond = {},
        *,
        observe: Observer | None = None,
        reverse: bool = False,
    ) -> Solution:
        """Integrate from x0 (B, C, H, W) under conditions (B, …).

        Raises:
            FlowlitError: as the solver inside; without labels and text, and for networks that need them.
        """
        if label_dropout_of(velocity) == 0 and "label" in cond and self.scale != 1:
            raise FlowlitError(
                "Guided: the network never learned to do without its label; train it with label_dropout > 0"
            )
        inside = GuidedVelocity(velocity, self.scale)
        return self.solver(inside, x0, cond, observe=observe, reverse=reverse)

    @property
    def grid(self) -> Any:
        """Times of the solver inside; None if it says nothing of them."""
        return getattr(self.solver, "grid", None)

    def like(self, other: Solver) -> Guided:
        """Return another solver under the same guidance."""
        return Guided(other, self.scale)
