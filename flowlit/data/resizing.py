"""Images of any size as a zip of squares of one size."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image
from PIL import __version__ as pillow

from .._support.files import building, check_room
from .._support.progress import Bar
from .._version import __version__
from ..errors import FlowlitError
from .checking import refusal
from .decode import Decoded, UnreadableImage, check_colour
from .fitting import Style
from .listing import CARD, LABELS, MEMBER_DATE, member_name

LARGEST = 8192
"""Width and height in pixels, at most."""

_BLOCK = 64
_FEW = 8
"""Images at a time that are cut into many squares each, so that these fit into memory."""
_CARD_BYTES = 1 << 20


class Resizable(Protocol):
    """Images that can be made squares of one size: ``ImageFiles``, or a set in memory."""

    labels: bool

    @property
    def sources(self) -> list[str]: ...

    @property
    def left_out(self) -> Counter[str]: ...

    @property
    def classes(self) -> tuple[str, ...] | None: ...

    def listed(self) -> int: ...

    def labelled(self) -> bool: ...

    def class_numbers(self) -> np.ndarray: ...

    def load(self, index: int) -> Decoded: ...

    def where(self, index: int) -> str: ...

    def name(self, index: int) -> str: ...


class Resized(NamedTuple):
    """An image as it is written, with facts about its file."""

    png: bytes
    pixels: bytes
    size: tuple[int, int]
    format: str
    mode: str
    changes: tuple[str, ...]


def write_resized(files: Resizable, into: str, style: Style) -> dict[str, Any]:
    """Write images as a zip with their classes and a card, and return the card.

    A zip of these images that is there already, because a pipeline was ended just after it, may stay.

    Args:
        files: of any size.
        into: the zip, ending in .zip.
        style: how they become squares of one size.

    Raises:
        FlowlitError: if another zip exists, the disk cannot hold it, or an image cannot be read.
    """
    check_colour(style.background)
    if not 1 <= style.resolution <= LARGEST:
        raise FlowlitError(f"resolution is {style.resolution}; expected 1 to {LARGEST} pixels")
    if Path(into).suffix != ".zip":
        raise FlowlitError(f"{into} is to be a zip; expected a name that ends in .zip")
    needed = files.listed() * (3 * style.resolution**2 + 300)
    with building(Path(into), "images.zip", _was_made_so(files, into, style)) as folder:
        check_room(folder.parent, needed, "the images", "free some, or choose another --into")
        return _write(files, folder / "images.zip", style)


def _was_made_so(files: Resizable, into: str, style: Style) -> bool:
    """Return whether a zip is there whose card says that it has such images, so that a look is worth it."""
    try:
        with zipfile.ZipFile(into) as archive, archive.open(CARD) as file:
            card = json.loads(file.read(_CARD_BYTES))
    except Exception:  # there is none, or it is anything else
        return False
    return isinstance(card, dict) and card.items() >= _card(files, style).items()


def _write(files: Resizable, path: Path, style: Style) -> dict[str, Any]:
    """Write the zip, and return its card."""

    def convert(index: int) -> list[Resized] | UnreadableImage:
        try:
            image = files.load(index)
            return [_resized(square, image) for square in style.squares(image)]
        except UnreadableImage as error:
            return error

    count = files.listed()
    broken: dict[str, UnreadableImage] = {}
    counts = {name: Counter[str]() for name in ("formats", "modes", "sizes", "changes")}
    pixels = hashlib.sha256()
    enlarged = 0
    rows: dict[str, int] = {}  # of each square, its image
    bar = Bar(total=count, desc="Resizing images", unit=" images")
    with zipfile.ZipFile(path, "w") as archive, ThreadPoolExecutor() as pool, bar:
        size = _FEW if style.fit == "patches" else _BLOCK
        for start in range(0, count, size):
            block = range(start, min(start + size, count))
            for index, squares in zip(block, pool.map(convert, block), strict=True):
                if isinstance(squares, UnreadableImage):
                    broken[files.where(index)] = squares
                    continue
                for number, square in enumerate(squares):
                    name = _member(files, index, number, style, rows)
                    archive.writestr(zipfile.ZipInfo(name, MEMBER_DATE), square.png)
                    pixels.update(square.pixels)
                    rows[name] = index
                image = squares[0]
                counts["formats"][image.format] += 1
                counts["modes"][image.mode] += 1
                counts["sizes"]["{}×{}".format(*image.size)] += 1
                counts["changes"].update(image.changes)
                enlarged += style.enlarges(image.size)
            bar.update(len(block))
        if broken:
            raise refusal(", ".join(files.sources), count, broken)
        card = {
            **_card(files, style),
            "count": len(rows),
            **{name: dict(sorted(number.items())) for name, number in counts.items()},
            "enlarged": enlarged,
            "sha256": pixels.hexdigest(),
        }
        for name, content in ((LABELS, _labels(files, rows)), (CARD, card)):
            text = json.dumps(content, indent=1, ensure_ascii=False)
            archive.writestr(zipfile.ZipInfo(name, MEMBER_DATE), text)
    return card


def _resized(square: Image.Image, image: Decoded) -> Resized:
    png = io.BytesIO()
    square.save(png, "PNG")
    return Resized(
        png.getvalue(), square.tobytes(), image.image.size, image.format, image.mode, image.changes
    )


def _member(files: Resizable, index: int, number: int, style: Style, rows: dict[str, int]) -> str:
    """Return the name of a square; patches have a folder of their image's name, by which they are paired.

    Raises:
        FlowlitError: if another of ``rows`` has it.
    """
    if style.fit != "patches":
        return member_name(index)
    name = f"{PurePosixPath(files.name(index)).with_suffix('')}/{number:04d}.png"
    if name in rows:
        both = f"{files.where(rows[name])} and {files.where(index)}"
        raise FlowlitError(f"{both} would both become {name}; rename one of them")
    return name


def _labels(files: Resizable, rows: dict[str, int]) -> dict[str, Any]:
    """Return the content of dataset.json, of squares of the images ``rows``, by name."""
    if not files.labels:
        return {"labels": None}
    numbers = files.class_numbers()
    labels = [[name, int(numbers[index])] for name, index in rows.items()]
    names = [name.encode(errors="backslashreplace").decode() for name in files.classes or ()]
    return {"labels": labels, "classes": names} if names else {"labels": labels}


def _card(files: Resizable, style: Style) -> dict[str, Any]:
    """Return how the images are made."""
    return {
        "format": "flowlit-images",
        "version": 1,
        "source": ", ".join(Path(name).resolve().name for name in files.sources),
        **({} if style.fit == "patches" else {"count": files.listed()}),
        "classes": None if files.classes is None else list(files.classes),
        "left_out": dict(sorted(files.left_out.items())),
        "resolution": style.resolution,
        "fit": style.fit,
        "background": style.background,
        "resampling": "none" if style.fit == "patches" else f"{style.filter.capitalize()}, Pillow {pillow}",
        "flowlit": __version__,
    }
