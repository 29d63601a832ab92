"""The time of a run, estimated from what was measured."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from .measured import Work
from .subject import Subject


class Timing(NamedTuple):
    """Work that a run does a number of times."""

    what: str
    measured_on: str
    each: float
    """Seconds."""
    number: int
    work: Work | None = None
    """On all devices together, where it was counted."""
    within: str = ""
    """What it is a part of, if its time is counted there."""

    @property
    def all(self) -> float:
        """Seconds of the whole run."""
        return self.number * self.each


def timings(s: Subject) -> Iterator[Timing]:
    """Yield what takes time in a run: training, with the pairs that are completed in it, and generation."""
    step = s.measured.step
    each = s.seconds_a_step
    if step and each and s.steps:
        work = scaled(s.measured.trained, s.samples_a_step, s.samples_a_step / s.share)
        yield Timing("training step", f"{step.samples} samples", each, s.steps, work)
        pairs = step.pairs / step.seconds * each
        yield Timing("  completing pairs", "", pairs, s.steps, within="training step")
    for name, made in s.measured.made.items():
        images = s.images if name else s.validated
        measured_on = f"{made.samples} samples" + (f", NFE {made.nfe:.1f}" if name else "")
        kind = "images" if s.options is None else "pairs"
        what = f"{images:,} {kind} by {name}" if name else "validation"
        work = scaled(s.measured.evaluated, made.nfe * images, made.nfe * math.ceil(images / made.batch))
        each = made.each * images / s.trainer.world_size
        yield Timing(what, measured_on, each, s.validations or 1, work if name else Work(0, 0))


def scaled(work: Work | None, samples: float, batches: float) -> Work | None:
    """Return the work of so many samples in so many batches."""
    return work and Work(work.flops * samples, work.launches * batches)


def seconds_of(s: Subject) -> float:
    """Return the seconds of the whole run."""
    return sum(timing.all for timing in timings(s) if not timing.within)
