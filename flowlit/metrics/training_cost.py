"""The counted cost of a training (``training_cost.json``). Read without torch."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from .._support.schema import Count, Format, Positive

FILE = "training_cost.json"
FORMAT = "flowlit-training-cost"

Seconds = Annotated[float, Meta(ge=0)]


class Evaluations(Struct):
    """Evaluations of a network: one for each sample of each call."""

    with_gradient: Count = 0
    without_gradient: Count = 0

    def __add__(self, other: Evaluations) -> Evaluations:
        return Evaluations(
            self.with_gradient + other.with_gradient, self.without_gradient + other.without_gradient
        )


class TrainingCosts(Struct):
    """Cost of a training so far, on all devices together."""

    steps: Count = 0
    """Optimizer steps; those that a rollback took back count."""
    images: Count = 0
    networks: dict[str, Evaluations] = {}
    """By name: ``network``, ``ema``, ``guide`` …"""
    seconds: Seconds = 0.0
    """By the clock, without validation."""
    processor_seconds: Seconds = 0.0
    """Of all threads of the processes that train; workers that load data are others."""
    first_step: Count = 0
    """Step at which counting began: 0 unless the run went on from a checkpoint without counts."""
    devices: Positive = 1
    format: str = FORMAT
    version: int = 1

    def evaluations(self) -> Evaluations:
        """Return the evaluations of all networks."""
        return sum(self.networks.values(), Evaluations())


COSTS = Format(TrainingCosts, "record of a training's cost", "run the training again", FORMAT)
