"""The recipe as a diagram: a box for each run under those that it needs, and arcs beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..._support.formatting import duration
from .blocks import Diagram
from .find import Group
from .stage import Stage

ROW = 76
"""Height of a box with the gap below it."""

BOX = 60

WIDTH = 420
"""Of the diagram without its arcs: it is read at a phone's width."""

FEATHER = 16
"""Between two arcs."""

MOST = 6
"""Arcs side by side; further ones lie upon each other."""


@dataclass
class Box:
    """A run: three lines."""

    y: int
    name: str
    command: str
    writes: str
    reads: str
    done: bool


def diagram(group: Group, heading: str = "") -> Diagram:
    """Draw the runs of a root, which are in the order of their needs."""
    stages = group.stages
    place = {stage.name: i for i, stage in enumerate(stages)}
    lanes = _lanes(stages, place)
    gutter = FEATHER * (1 + max(lanes.values(), default=0)) + 10
    arcs = []
    tips = []
    for (first, last), lane in lanes.items():
        start = first * ROW + BOX // 2 + 8
        end = last * ROW + BOX // 2 - 8
        left = gutter - FEATHER * (lane + 1)
        arcs.append(f"M{gutter} {start} C{left} {start} {left} {start} {left} {(start + end) // 2}")
        arcs[-1] += f" C{left} {end} {left} {end} {gutter - 2} {end}"
        tips.append(f"M{gutter} {end} l-8 -4 v8 z")
    boxes = [
        Box(i * ROW, stage.name[:40], _command(stage), writes(stage), _reads(stage), stage.done is not False)
        for i, stage in enumerate(stages)
    ]
    words = "; ".join(
        f"{stage.name} needs {', '.join(stage.needs)}" if stage.needs else f"{stage.name} needs no other run"
        for stage in stages
    )
    return Diagram(boxes, arcs, tips, len(stages) * ROW - (ROW - BOX), gutter + WIDTH, gutter, words, heading)


def _lanes(stages: Sequence[Stage], place: dict[str, int]) -> dict[tuple[int, int], int]:
    """Return the lane of each arc: shorter ones are nearer to the boxes; those of one lane do not cross."""
    arcs = [(place[name], i) for i, stage in enumerate(stages) for name in stage.needs if place[name] < i]
    lanes: dict[tuple[int, int], int] = {}
    for first, last in sorted(arcs, key=lambda arc: (arc[1] - arc[0], arc)):
        taken = {lane for (a, b), lane in lanes.items() if a < last and first < b}
        free = (lane for lane in range(MOST) if lane not in taken)
        lanes[first, last] = next(free, MOST - 1)
    return lanes


def _command(stage: Stage) -> str:
    took = [duration(stage.seconds)] if stage.seconds is not None else []
    state = [] if stage.done is not False else ["not finished"]
    return " · ".join([stage.command or "unknown command", *took, *state])


def writes(stage: Stage) -> str:
    """Return in words what a run has written."""
    parts = []
    if any((stage.folder / "checkpoints").glob("*.ckpt")):
        parts.append("checkpoints")
    if stage.pairs is not None:
        parts.append(f"{stage.pairs.get('count', 0):,} pairs")
    parts += list(stage.reports)
    return f"writes {', '.join(parts)}" if parts else "has written nothing yet"


def _reads(stage: Stage) -> str:
    names = [*stage.needs, *stage.reads]
    text = f"needs {', '.join(names)}" if names else ""
    return text if len(text) < 70 else f"{text[:69]}…"
