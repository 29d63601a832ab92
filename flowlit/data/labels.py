"""Labels of the images of a zip, as its ``dataset.json`` lists them."""

from __future__ import annotations

import reprlib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from .._support.files import check_file
from .._support.schema import Format
from ..errors import FlowlitError
from .classes import Classes, classes_in, given_names, spelt
from .listing import LABELS


class DatasetJson(msgspec.Struct):
    """Labels of the images of a zip, [name, class], and the names of class 0, 1, …."""

    labels: list[tuple[str, Any]] | None = None
    classes: list[str] | None = None


DATASET_JSON = Format(DatasetJson, "list of labels", "set labels: false or repair it", limit=1 << 28)


def names_in(place: str) -> tuple[str, ...]:
    """Return the names of the classes of a folder or a zip of images.

    Raises:
        FlowlitError: if it has none.
    """
    if Path(place).is_dir():
        names = classes_in(place, f"folder {place}")
    else:
        check_file(place, "classes in", "name a folder or zip of images, or give a list")
        try:
            with zipfile.ZipFile(place) as archive:
                names = _names(_parsed(archive, place), place) or ()
        except (zipfile.BadZipFile, OSError) as error:
            raise FlowlitError(f"classes in {place} cannot be read ({error}); give a list") from error
    if not names:
        raise FlowlitError(f"{place} has no names of classes; give a list, as classes: [cat, dog]")
    return names


def names_to_take(classes: Classes, where: str) -> tuple[str, ...] | None:
    """Return the names given for class 0, 1, …, or those of another folder or zip; None if none are given."""
    if classes and isinstance(classes, str):
        return names_in(classes)
    return None if classes is None else given_names(classes, where)


def read_labels(
    archive: zipfile.ZipFile, path: str, images: Sequence[str]
) -> tuple[list[int], tuple[str, ...] | None]:
    """Return the labels of images in a zip, in the order of their names, and the names of the classes.

    Raises:
        FlowlitError: if ``dataset.json`` is missing or damaged, or does not name each image once.
    """
    parsed = _parsed(archive, path)
    numbers = dict(parsed.labels or ())
    if set(numbers) != set(images):  # the names of one may be spelt otherwise than those of the other
        spellings = {spelt(image): image for image in images}
        numbers = {spellings.get(spelt(name), name): number for name, number in numbers.items()}
    unlabelled = set(images) - set(numbers)
    unknown = set(numbers) - set(images)
    if unlabelled or unknown:
        what = "has no label for" if unlabelled else "names images that the zip does not hold:"
        names = unlabelled or unknown
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise FlowlitError(f"{path}: {LABELS} {what} {min(names)}{more}; set labels: false or repair it")
    return [numbers[name] for name in images], _names(parsed, path)


def _names(parsed: DatasetJson, path: str) -> tuple[str, ...] | None:
    return given_names(parsed.classes, f"{path}:{LABELS}") if parsed.classes else None


def _parsed(archive: zipfile.ZipFile, path: str) -> DatasetJson:
    """Return the content of ``dataset.json`` in a zip, sound and with labels."""
    where = f"{path}:{LABELS}"
    if LABELS not in archive.namelist():
        raise FlowlitError(f"{path}: labels asked for, but {LABELS} is missing; set labels: false or add it")
    parsed = _content(archive, where)
    if parsed.labels is None:
        raise FlowlitError(f"{where} has no labels; set labels: false or repair it")
    if parsed.classes is not None:
        given_names(parsed.classes, where)
    check_labels(parsed.labels, len(parsed.classes or ()), where)
    return parsed


def has_labels(archive: zipfile.ZipFile, path: str) -> bool:
    """Return whether the images of a zip have labels."""
    return LABELS in archive.namelist() and _content(archive, f"{path}:{LABELS}").labels is not None


def _content(archive: zipfile.ZipFile, where: str) -> DatasetJson:
    try:
        size = archive.getinfo(LABELS).file_size
        content = archive.read(LABELS) if size <= DATASET_JSON.limit else b""
    except Exception as error:  # of many kinds, as damaged members lead to
        raise FlowlitError(f"{where} cannot be read ({error}); set labels: false or repair it") from error
    if not content:
        raise FlowlitError(f"{where} has {size:,} bytes; expected up to {DATASET_JSON.limit:,}")
    return DATASET_JSON.check(DATASET_JSON.parse(content, where), where)


def check_labels(labels: Sequence[tuple[str, Any]], classes: int, where: str) -> None:
    """Refuse labels that are no classes, and images with two of them.

    Args:
        labels: class of an image, by its name.
        classes: number of classes; 0 if it is not known.
        where: they stand, for the error.

    Raises:
        FlowlitError: naming the image.
    """
    end = f"to {classes - 1}" if classes else "on"
    seen: set[str] = set()
    for name, label in labels:
        if type(label) is not int or not 0 <= label < (classes or 1 << 31):
            raise FlowlitError(
                f"{where}: the class of {name} is {reprlib.repr(label)}; expected a whole number from 0 {end}"
            )
        if name in seen:
            raise FlowlitError(f"{where} names {name} twice; give each image one class")
        seen.add(name)
