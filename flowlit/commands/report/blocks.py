"""The parts of a page: sections of tables, figures, commands and lines. The template draws them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass
class Block:
    """A part of a section; the template has a macro for each kind."""

    kind: ClassVar[str]


@dataclass
class Text(Block):
    """A paragraph."""

    text: str
    kind = "text"


@dataclass
class Lines(Block):
    """A list of lines."""

    lines: list[str]
    kind = "lines"


@dataclass
class Table(Block):
    """A table: the first ``left`` columns are text, the others numbers."""

    header: list[str]
    rows: list[list[str]]
    caption: str = ""
    left: int = 1
    folded: bool = False
    """Whether it is shown, and printed, only once it was opened."""
    kind = "table"


@dataclass
class Commands(Block):
    """Command lines, each with what it belongs to."""

    entries: list[tuple[str, str]]
    kind = "commands"


@dataclass
class Figure(Block):
    """A picture, its address as data, and the words that stand for it."""

    source: str
    words: str
    caption: str = ""
    plot: bool = True
    """Whether it is drawn on a transparent ground in black, to be inverted in the dark."""
    wide: bool = False
    kind = "figure"


@dataclass
class Figures(Block):
    """Figures side by side, as many as fit."""

    figures: list[Figure]
    heading: str = ""
    small: bool = False
    kind = "figures"


@dataclass
class Key(Block):
    """Names of the lines in plots: (name, colour, dashes)."""

    entries: list[tuple[str, str, str]]
    kind = "key"


@dataclass
class Diagram:
    """Boxes under each other, and arcs from box to box."""

    boxes: list[Any]
    arcs: list[str]
    tips: list[str]
    height: int
    width: int
    gutter: int
    words: str
    heading: str = ""


@dataclass
class Diagrams(Block):
    """Diagrams side by side, as many as fit."""

    diagrams: list[Diagram]
    kind = "diagrams"


@dataclass
class Section:
    """A heading, and what stands below it."""

    title: str
    blocks: list[Block] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        return self.title.lower().replace(" ", "-").replace(",", "")
