"""The sections of a page, in their order; those that the runs give nothing for say so, or are left out."""

from __future__ import annotations

from collections.abc import Sequence

from . import facts, results
from .blocks import Block, Diagrams, Figure, Figures, Lines, Section, Table, Text
from .diagram import diagram
from .find import Group
from .pictures import Room, grids, others
from .plots import Line, draw_curves
from .stage import Stage

PANELS = 12
"""Curves of a stage, at most."""

FIRST: tuple[str, ...] = ("train/", "lr-", "gradients/norm", "images_per_s/train", "anneal/")
FIRST += ("fid/", "frechet_", "straightness/sum")
"""Beginnings of tags that are drawn, in this order."""

GROUND = ("images_per_s", "lr-", "anneal/")
"""Those whose axis begins at 0."""

FEW = 3
"""Roots whose pictures are shown through time; of more, the last."""


def sections_of(groups: Sequence[Group]) -> list[Section]:
    """Return the sections of a page about runs."""
    measured = results.results_of(groups)
    comparison = results.methods(groups)
    room = Room()
    sections = [
        Section("Results", results.tables(measured) or [Text("No run has measured a Fréchet distance.")]),
        Section("Methods", comparison),
        Section("Recipe", _recipe(groups)),
        Section("Quality and cost", results.plots(measured)),
        Section("Curves", _curves(groups) or [Text("No run has logged curves in event files.")]),
        Section("Samples", _samples(groups, room)),
        Section("Protocol", facts.protocols(groups) or [Text("No run has a report of an evaluation.")]),
        Section("Cost and time", facts.costs(groups)),
        Section("Commands", facts.command_lines(groups)),
        Section("Environment", facts.environments(groups)),
        Section("Differences", facts.differences(groups)),
        Section("Every number", results.others(groups)),
        Section("Settings", facts.settings(groups)),
        Section("Missing", _missing(groups, room)),
    ]
    return [section for section in sections if section.blocks]


def _recipe(groups: Sequence[Group]) -> list[Block]:
    """Return a diagram for each form of recipe, with the roots that have it."""
    forms: dict[str, list[Group]] = {}
    for group in groups:
        form = repr([(stage.name, stage.command, stage.needs) for stage in group.stages])
        forms.setdefault(form, []).append(group)
    diagrams = []
    for own in forms.values():
        names = facts.listed([group.name for group in own])
        same = ": the same, drawn for the first" if len(own) > 1 else ""
        diagrams.append(diagram(own[0], "" if len(groups) == 1 else names + same))
    return [Diagrams(diagrams)]


def _curves(groups: Sequence[Group]) -> list[Block]:
    """Return plots of what was logged in training, a line for each root that has the stage."""
    blocks: list[Block] = []
    drawn: dict[int, str] = {}
    for name in dict.fromkeys(stage.name for group in groups for stage in group.stages):
        pairs = [(i, stage) for i, group in enumerate(groups) for stage in group.stages]
        own = {i: _drawable(stage) for i, stage in pairs if stage.name == name}
        figures = []
        for tag in _tags([tag for scalars in own.values() for tag in scalars]):
            lines = [Line(i, scalars[tag]) for i, scalars in own.items() if tag in scalars]
            drawn |= {line.place: groups[line.place].name for line in lines}
            words = f"{tag} of {name} over optimizer steps"
            figures.append(Figure(draw_curves(tag, lines, tag.startswith(GROUND)), words))
        blocks += [Figures(figures, name)] if figures else []
    return [*([results.key(drawn)] if len(drawn) > 1 else []), *blocks]


def _drawable(stage: Stage) -> dict[str, list[tuple[float, float]]]:
    """Return what was logged more than once."""
    scalars = stage.curves.scalars.items()
    return {tag: [(float(x), y) for x, y in points] for tag, points in scalars if len(points) > 1}


def _tags(tags: Sequence[str]) -> list[str]:
    """Return the tags that are drawn, in their order."""
    known = [tag for tag in dict.fromkeys(tags) if tag.startswith(FIRST) and "_half" not in tag]
    order = {tag: next(i for i, first in enumerate(FIRST) if tag.startswith(first)) for tag in known}
    return sorted(known, key=lambda tag: (order[tag], tag))[:PANELS]


def _samples(groups: Sequence[Group], room: Room) -> list[Block]:
    """Return grids of samples and other pictures of what each run generates; of several roots the grids of a
    stage side by side.
    """
    blocks: list[Block] = []
    for name in dict.fromkeys(stage.name for group in groups for stage in group.stages):
        figures = []
        for group in groups:
            for stage in group.stages:
                if stage.name == name:
                    prefix = f"{group.name}: " if len(groups) > 1 else ""
                    figures += grids(prefix, stage, room, len(groups) <= FEW)
                    figures += others(prefix, stage, room) if len(groups) == 1 else []
        blocks += [Figures(figures, name, small=True)] if figures else []
    return blocks


def _missing(groups: Sequence[Group], room: Room) -> list[Block]:
    """Return what the runs lack, and what is damaged."""
    rows = [
        [name, problem] for name, stage in facts.each(groups) for problem in dict.fromkeys(stage.problems)
    ]
    blocks: list[Block] = [Table(["run", "remark"], rows, left=2)] if rows else []
    if room.refused:
        blocks.append(Lines([f"{room.refused} pictures are left out: the page would be too large"]))
    return blocks
