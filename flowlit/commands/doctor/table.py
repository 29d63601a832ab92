"""Tables of the stages of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..._support.formatting import aligned, duration, size
from ...metrics.cost import count_parameters
from .gpus import assumption, how_many, in_words, memory_rows, numbers_of, total_on
from .stage import Looked
from .subject import Subject

DASH = "–"


def stage_table(looked: Sequence[Looked]) -> list[str]:
    """Return what each stage does, its parameters, memory, time and disk, and the sums, as lines."""
    head = ["stage", "what it does", "parameters", "memory", "time", "disk"]
    seconds = sum(each.seconds for each in looked)
    memory = max((each.memory or 0 for each in looked), default=0)
    disk = sum(each.disk for each in looked)
    sums = ["all", "", "", or_dash(memory, size), duration(seconds), or_dash(disk, size)]
    return aligned([head, *map(row, looked), sums], left=2)


def row(looked: Looked) -> list[str]:
    """Return the row of a stage."""
    s = looked.subject
    if s is None:
        return [looked.name, looked.what, DASH, DASH, DASH, DASH]
    network = getattr(s.model, "network", None)
    parameters = DASH if network is None else f"{count_parameters(network):,}"
    numbers = [or_dash(looked.memory, size), or_dash(looked.seconds, duration), or_dash(looked.disk, size)]
    return [looked.name, does(s), parameters, *numbers]


def does(s: Subject) -> str:
    """Return what a stage does, in a few words."""
    solvers = " and ".join(name for name in s.measured.made if name)
    by = f" by {solvers}" if solvers else ""
    if s.options is not None:
        at_random = " at random" * (s.options.origin == "random")
        return f"makes {s.missing:,} pairs{at_random}{by}"
    if not s.trains:
        return f"generates {s.images:,} images{by}"
    steps = "without an end" if s.steps is None else f"{s.steps:,} steps"
    return f"trains {steps} of {s.data.batch_size:,} samples"


def or_dash(value: float | None, unit: Callable[[float], str]) -> str:
    """Return a number with its unit; a dash for none."""
    return unit(value) if value else DASH


def total(seconds: Sequence[float | None]) -> str:
    """Return a sum; of which some is unknown, as what it exceeds.

    >>> total([60.0, 30.0]), total([60.0, None])
    ('90 s', '> 60 s')
    """
    known = in_words(sum(each or 0 for each in seconds))
    return f"> {known}" if None in seconds else known


def gpu_table(looked: Sequence[Looked], gpus: Sequence[str]) -> list[str]:
    """Return the time of each stage on each GPU, the memory, and what that rests on, as lines."""
    subjects = {each.name: each.subject for each in looked if each.subject is not None}
    seconds = {name: [total_on(subject, gpu) for gpu in gpus] for name, subject in subjects.items()}
    counts = {name: how_many(subject) for name, subject in subjects.items()}
    several = len(set(counts.values())) > 1
    rows = [
        [f"{name}, {counts[name]}" if several else name, *map(in_words, each)]
        for name, each in seconds.items()
    ]
    if not rows:
        return []
    rows.append(["all", *map(total, zip(*seconds.values(), strict=True))])
    memory = max((each.memory or 0 for each in looked), default=0)
    rows += memory_rows(memory or None, gpus)
    kinds = dict.fromkeys(numbers_of(subject) for subject in subjects.values())
    lines = [assumption(numbers, gpus) for numbers in kinds]
    head = "estimate" if several else f"estimate for {next(iter(counts.values()))}"
    return [*aligned([[head, *gpus], *rows]), "", *lines]
