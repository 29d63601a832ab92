"""Grids of samples, through time and at the end. Read without trust."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from PIL import Image

from .blocks import Figure
from .plots import address
from .stage import Stage

T = TypeVar("T")

TIMES = 5
"""Grids of a solver that are shown, at most: the first, the last, and some between."""

PIXELS = 16 << 20
"""Pixels of a picture, at most."""

ROOM = 32 << 20
"""Bytes of all pictures of a page, about."""

KINDS = {"PNG": "png", "JPEG": "jpeg", "WEBP": "webp"}

FOLDERS = ("trajectories", "interpolations", "neighbours")
"""Folders of a run that hold pictures of what it generates, besides samples."""


class Room:
    """Bytes that are left for pictures."""

    def __init__(self, size: int = ROOM):
        self.left = size
        self.refused = 0

    def takes(self, content: bytes) -> bool:
        """Return whether a picture fits; what is refused is counted."""
        if len(content) > self.left:
            self.refused += 1
            return False
        self.left -= len(content)
        return True


def grids(prefix: str, stage: Stage, room: Room, through_time: bool) -> list[Figure]:
    """Return the grids of samples of a run: through time where its events have them, else its files.

    Args:
        prefix: of captions.
        stage: the run.
        room: for pictures.
        through_time: of a training show several, and not the last alone.
    """
    figures = []
    logged = {tag: entries for tag, entries in stage.curves.pictures.items() if tag.startswith("samples/")}
    for tag, entries in sorted(logged.items()):
        trained = stage.command == "fit"
        for step, content in spread(entries, TIMES) if through_time and trained else entries[-1:]:
            words = prefix + tag.removeprefix("samples/") + (f", step {step:,}" if trained else "")
            figures += _figure(stage, content, words, room)
    return figures if logged else _files(prefix, stage, "samples", room)


def others(prefix: str, stage: Stage, room: Room) -> list[Figure]:
    """Return the other pictures in a run's folder: paths, neighbours, interpolations."""
    return [figure for name in FOLDERS for figure in _files(f"{prefix}{name}: ", stage, name, room)]


def _files(prefix: str, stage: Stage, name: str, room: Room) -> list[Figure]:
    figures = []
    for file in sorted((stage.folder / name).glob("*.png")):
        content = stage.tried(lambda file=file: _bytes(file))  # type: ignore[misc]
        if content is not None:
            figures += _figure(stage, content, f"{prefix}{file.stem}", room)
    return figures


def _bytes(file: Path) -> bytes:
    if not file.is_file() or file.stat().st_size > ROOM:
        raise ValueError(f"{file} is no picture of at most {ROOM >> 20} MiB")
    return file.read_bytes()


def _figure(stage: Stage, content: bytes, caption: str, room: Room) -> list[Figure]:
    """Return a picture, if it is one; its kind is that of its bytes, whatever it is called."""
    try:
        with Image.open(io.BytesIO(content), formats=list(KINDS)) as image:
            if image.width * image.height > PIXELS:
                raise ValueError(f"{image.width}×{image.height} pixels are too many")
            kind = KINDS[str(image.format)]
            image.load()
    except (OSError, ValueError, SyntaxError, KeyError, Image.DecompressionBombError) as error:
        stage.problems.append(f"picture {caption} cannot be shown ({error!s:.200})")
        return []
    if not room.takes(content):
        return []
    return [Figure(address(content, kind), f"{caption}, of {stage.name}", caption, plot=False)]


def spread(entries: Sequence[T], most: int) -> list[T]:
    """Return entries that are evenly spread, with the first and the last.

    >>> spread(range(11), 3), spread([1, 2], 3)
    ([0, 5, 10], [1, 2])
    """
    if len(entries) <= most:
        return list(entries)
    return [entries[round(i * (len(entries) - 1) / (most - 1))] for i in range(most)]
