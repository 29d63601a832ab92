"""``flowlit images``: a folder of images, cropped and resized, as a zip to train on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from .._support.files import matching
from ..errors import FlowlitError

if TYPE_CHECKING:
    from ..data.resizing import Resizable


def images(
    source: str,
    *,
    resolution: int,
    into: str,
    fit: Literal["crop", "pad", "patches"] = "crop",
    background: str = "white",
    filter: Literal["lanczos", "box"] = "lanczos",
) -> Iterator[str]:
    """Crop and resize the images of a folder or zip into a zip, which ``flowlit.data.ImageZip`` reads.

    Images are turned upright, laid over the background where they are transparent, cropped to the square in
    their middle, and resized with a filter that averages what becomes smaller. Sub-folders become classes.
    Images are numbered in alphabetical order; card.json in the zip has what was read and done. Equal images
    make equal files.

    Args:
        source: the folder, or a zip with or without dataset.json, or a pattern of several zips, such as
            "train-*.zip"; a folder with torchvision's CIFAR-10 stands for its training images.
        resolution: width and height of the images in the zip, in pixels.
        into: the zip to write; it must not exist, unless it has the same bytes already.
        fit: "crop" keeps the square in the middle; "pad" keeps all of an image, with bars beside it;
            "patches" cuts all squares of that size that an image has, without resizing.
        background: colour behind transparent pixels and of bars, by its name or as "#rrggbb".
        filter: "lanczos" is sharp; "box" takes the mean over each new pixel's area.

    Raises:
        FlowlitError: if an image cannot be read, naming the first; nothing is written then.
    """
    from ..data.decode import CHANGES
    from ..data.listing import in_words
    from ..data.resizing import Style, write_resized

    files = _opened(source)
    files.labels = files.labelled()
    card = write_resized(files, into, Style(resolution, fit, background, filter))
    kinds = f" of {len(files.classes)} classes" if files.classes else ""
    yield f"{into}: {card['count']:,} images{kinds}, {resolution}×{resolution}"
    if files.left_out:
        yield f"left out: {in_words(files.left_out)}"
    for name, number in card["changes"].items():
        yield f"{number:,} {CHANGES[name].format(background=background)}"
    if card["enlarged"]:
        yield f"warning: {card['enlarged']:,} images are smaller than {resolution} pixels, and were enlarged"


def _opened(source: str) -> Resizable:
    """Return the images of a folder, of a zip, or of the zips that a pattern names, in alphabetical order.

    Raises:
        FlowlitError: if there is none.
    """
    from ..data import CIFAR10, ImageFolder, ImageZip

    if os.path.isdir(source):
        return CIFAR10(source, download=False) if CIFAR10.is_in(source) else ImageFolder(source)
    paths = matching(source)
    if not paths:
        raise FlowlitError(f"{source} does not exist; expected a folder, a zip, or a pattern of zips")
    return ImageZip(paths)
