"""Headers of a set of images: sizes, colours and classes, in a moment and without torch."""

from __future__ import annotations

import io
import os
import zipfile
from collections import Counter
from pathlib import Path
from typing import IO

import msgspec
from PIL import Image

from ..._support.files import check_file, open_plain, short_hash
from ..._support.progress import Bar
from ..._support.schema import Count, Format, Positive
from ...data.checking import refusal
from ...data.classes import classes_in, spelt
from ...data.decode import FORMATS, GREY, UnreadableImage
from ...data.labels import has_labels, read_labels
from ...data.listing import list_folder, list_zip
from ...data.long_work import Kept
from ...errors import FlowlitError


class Headers(msgspec.Struct):
    """Facts of a set of images, as far as headers have them; sizes are in pixels."""

    count: Positive
    smallest: Positive
    largest: Positive
    shortest_sides: dict[str, Count]
    grey: bool
    transparent: Count
    classes: dict[str, Count]
    """Images of each class, if they have one; in the order of the classes."""
    format: str = "flowlit-headers"
    version: int = 1

    def smaller_than(self, resolution: int) -> int:
        """Count the images that have to be enlarged."""
        return sum(count for side, count in self.shortest_sides.items() if int(side) < resolution)


KEPT = Kept(Format(Headers, "record of headers", "remove it", "flowlit-headers"), ".headers.json")


def read_headers(place: str) -> Headers:
    """Return what the headers of the images in a folder or zip have, or what an earlier look has found.

    Raises:
        FlowlitError: if there are no images, or some have no header.
    """
    files = _Folder(place) if os.path.isdir(place) else _Zip(place)
    if not files.names:
        raise FlowlitError(f"{place} holds no images; expected PNG, JPEG, BMP or WebP files")
    return KEPT.get(short_hash(os.path.abspath(place), files.stamp), lambda: _looked_at(files))


class _Folder:
    """Images of a folder."""

    def __init__(self, place: str):
        entries = list_folder(Path(place)).entries
        self.place = place
        self.names = [entry.name for entry in entries]
        self.stamp = short_hash(entries)

    def opened(self, name: str) -> IO[bytes]:
        return open(os.path.join(self.place, name), "rb", opener=open_plain)

    def classes(self) -> dict[str, int]:
        if any("/" not in name for name in self.names):
            return {}
        counts = Counter(spelt(name.split("/")[0]) for name in self.names)
        return {name: counts[name] for name in classes_in(self.place, f"image folder {self.place}")}


class _Zip:
    """Images of a zip."""

    def __init__(self, place: str):
        self.place = place
        check_file(place, "vars.images", "name a folder or a zip")
        try:
            self.archive = zipfile.ZipFile(place)
        except Exception as error:  # a damaged directory leads to errors of many kinds
            raise FlowlitError(f"{place} is no folder, and no zip ({error})") from error
        self.names = list_zip(self.archive, place).names
        status = os.stat(place)
        self.stamp = f"{status.st_size} {status.st_mtime_ns}"

    def opened(self, name: str) -> IO[bytes]:
        return io.BytesIO(self.archive.read(name))

    def classes(self) -> dict[str, int]:
        if not has_labels(self.archive, self.place):
            return {}
        labels, names = read_labels(self.archive, self.place, self.names)
        counts = Counter(labels)
        known = names or tuple(map(str, range(max(counts) + 1)))
        return {name: counts[number] for number, name in enumerate(known)}


def _looked_at(files: _Folder | _Zip) -> Headers:
    """Read every header."""
    longest: list[int] = []
    shortest: Counter[str] = Counter()
    broken: dict[str, UnreadableImage] = {}
    transparent = 0
    grey = True
    for name in Bar(files.names, desc="Looking at images", unit=" images", delay=1.0, leave=False):
        try:
            with files.opened(name) as file, Image.open(file, formats=FORMATS) as image:
                shortest[str(min(image.size))] += 1
                longest.append(max(image.size))
                transparent += image.has_transparency_data
                grey = grey and _is_grey(image)
        except Exception as error:  # damaged bytes lead decoders to errors of many kinds
            broken[os.path.join(files.place, name)] = UnreadableImage(str(error) or type(error).__name__)
    if broken:
        raise refusal(files.place, len(files.names), broken)
    smallest = min(map(int, shortest))
    return Headers(len(longest), smallest, max(longest), dict(shortest), grey, transparent, files.classes())


def _is_grey(image: Image.Image) -> bool:
    """Return whether an image has no colours, as far as its header and palette have it."""
    palette = image.palette
    if image.mode != "P" or palette is None or palette.rawmode not in (None, "RGB"):
        return image.mode in GREY
    colours = bytes(palette.palette)
    return colours[0::3] == colours[1::3] == colours[2::3]
