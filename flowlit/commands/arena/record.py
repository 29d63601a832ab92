"""The result of a comparison (``arena.json``). Read without torch."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from ..._support.schema import Count, Format

FORMAT = "flowlit-arena"


class Protocol(Struct, frozen=True):
    """Facts in which distances must agree to be compared."""

    features: str
    features_sha256: str | None
    images: Count | None
    reference: str | None
    """Which real images: their fingerprint, or the hash of their statistics."""
    reference_images: Count | None


class Row(Struct):
    """A model of a method, and a solver; numbers are means over the seeds."""

    method: str
    stage: str
    """Stage that measured it."""
    solver: str
    name: str
    """Of the row: the method, with the stage where a method has several that measure."""
    seeds: list[str]
    parameters: Count
    nfe: float
    distance: float
    spread: float | None
    """Standard deviation of the distance over the seeds; None of one."""
    extrapolated: float | None
    """Distance extrapolated to infinitely many images."""
    kernel: float | None
    with_gradient: float | None
    """Evaluations in training; None where nothing was trained, or a training was not counted."""
    without_gradient: float | None
    processor_hours: float | None
    """Of all trainings, without validation; couplings have none."""
    hours: float
    """By the clock, of all trainings and couplings with their start and validation."""
    images_per_s: float | None
    off_budget: bool = False
    """Evaluations with gradient differ from the median of all methods."""


class Arena(Struct):
    """All rows, the best first, and what is to be said of them."""

    protocol: Protocol
    rows: list[Row]
    incomplete: dict[str, str]
    """Runs that are left out, and why."""
    notes: list[str]
    samples: dict[str, str]
    """Grid of each method, from the same noise."""
    format: str = FORMAT
    version: int = 1


ARENA = Format(Arena, "table of an arena", "run flowlit arena again", FORMAT)


def encode(arena: Arena) -> bytes:
    """Return the JSON of a comparison."""
    return msgspec.json.format(msgspec.json.encode(arena), indent=1) + b"\n"
