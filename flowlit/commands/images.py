"""``flowlit images``: a folder of images, cropped and resized, as a zip to train on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from ..errors import FlowlitError


def images(
    source: str,
    *,
    resolution: int,
    into: str,
    fit: Literal["crop", "pad"] = "crop",
    background: str = "white",
) -> Iterator[str]:
    """Crop and resize the images of a folder or zip into a zip, which ``flowlit.data.ImageZip`` reads.

    Images are turned upright, laid over the background where they are transparent, cropped to the square in
    their middle, and resized with Lanczos' filter, which averages what becomes smaller. Sub-folders become
    classes. Images are numbered in alphabetical order; card.json in the zip has what was read and done. Equal
    images make equal files.

    Args:
        source: the folder, or a zip with or without dataset.json.
        resolution: width and height of the images in the zip, in pixels.
        into: the zip to write; it must not exist.
        fit: "crop" keeps the square in the middle; "pad" keeps all of an image, with bars beside it.
        background: colour behind transparent pixels and of bars, by its name or as "#rrggbb".

    Raises:
        FlowlitError: if an image cannot be read, naming the first; nothing is written then.
    """
    from ..data import ImageFolder, ImageZip
    from ..data.decode import CHANGES
    from ..data.listing import in_words
    from ..data.resizing import Style, write_resized

    if not os.path.lexists(source):
        raise FlowlitError(f"{source} does not exist; expected a folder or a zip")
    files = ImageFolder(source) if Path(source).is_dir() else ImageZip(source)
    files.labels = files.labelled()
    card = write_resized(files, into, Style(resolution, fit, background))
    kinds = f" of {len(files.classes)} classes" if files.classes else ""
    yield f"{into}: {card['count']:,} images{kinds}, {resolution}×{resolution}"
    if files.left_out:
        yield f"left out: {in_words(files.left_out)}"
    for name, number in card["changes"].items():
        yield f"{number:,} {CHANGES[name].format(background=background)}"
    if card["enlarged"]:
        yield f"warning: {card['enlarged']:,} images are smaller than {resolution} pixels, and were enlarged"
