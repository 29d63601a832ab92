"""Classes of images: their names, and the numbers that these have."""

from __future__ import annotations

import reprlib
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from .._support.files import check_file
from .._support.schema import Format
from ..errors import FlowlitError
from ..ranges import as_whole
from .listing import LABELS, sub_folders

Classes = list[str | int] | str | None
"""Argument of sets of images: names of class 0, 1, …, or a folder or zip whose classes these are."""

SHOWN = 12
"""Names that a message lists at most."""


class DatasetJson(msgspec.Struct):
    """Labels of the images of a zip, [name, class], and the names of class 0, 1, …."""

    labels: list[tuple[str, Any]] | None = None
    classes: list[str] | None = None


DATASET_JSON = Format(DatasetJson, "list of labels", "set labels: false or repair it", limit=1 << 28)


def numbered(names: Iterable[str]) -> tuple[str, ...]:
    """Return names in the order of their numbers: as numbers if all are numeric, by alphabet otherwise.

    >>> numbered(["10", "2", "1"]), numbered(["10b", "2b"])
    (('1', '2', '10'), ('10b', '2b'))
    """
    texts = set(names)
    if all(name.isascii() and name.isdigit() for name in texts):
        return tuple(sorted(texts, key=lambda name: (int(name), name)))
    return tuple(sorted(texts))


def given_names(classes: Any, where: str) -> tuple[str, ...]:
    """Return the names of a list that was given for class 0, 1, …; numbers may stand for their texts.

    Raises:
        FlowlitError: for something else, and a name that is empty or there twice.
    """
    many = isinstance(classes, Sequence) and not isinstance(classes, (str, bytes)) and len(classes) > 0
    texts = [one if isinstance(one, str) else as_whole(one) for one in (classes if many else ())]
    if not many or None in texts or "" in texts:
        raise FlowlitError(
            f"{where}: classes are {reprlib.repr(classes)}; expected names of class 0, 1, …, as [cat, dog]"
        )
    names = tuple(map(str, texts))
    for name, count in Counter(names).items():
        if count > 1:
            raise FlowlitError(f"{where}: class {name!r} is given twice in {listed(names)}; name each once")
    return names


def listed(names: Sequence[str]) -> str:
    """Return names as a list, cut if it is long.

    >>> listed(["cat", "dog"]), listed([str(i) for i in range(20)])
    ('[cat, dog]', '[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, … 20 in all]')
    """
    more = f", … {len(names)} in all" if len(names) > SHOWN else ""
    return f"[{', '.join(names[:SHOWN])}{more}]"


def class_names_of(network: Any) -> tuple[str, ...] | None:
    """Return the names of the classes that a network was trained on; None if it does not say."""
    while network is not None:  # a wrapper's are those of the network inside
        names = getattr(network, "class_names", None)
        if names is not None:
            return tuple(names)
        network = getattr(network, "network", None)
    return None


def renumbered(names: Sequence[str], given: Sequence[str], where: str) -> list[int]:
    """Return the number in ``given`` of each of some names.

    Raises:
        FlowlitError: naming those that were not given.
    """
    numbers = {name: number for number, name in enumerate(given)}
    unknown = [name for name in names if name not in numbers]
    if unknown:
        raise FlowlitError(
            f"{where} has the classes {listed(names)}, and {listed(unknown)} of them are not in classes: "
            f"{listed(given)}; add them, or remove their images"
        )
    return [numbers[name] for name in names]


def check_same_names(
    ours: Sequence[str] | None, theirs: Sequence[str] | None, who: str, than: str, mend: str = ""
) -> None:
    """Refuse two sets of classes, both of which have names, if a number means another class in each.

    Args:
        ours: names of the first.
        theirs: names of the second.
        who: has the first, as subject of the error.
        than: has the second.
        mend: advice; unless given, to number the first as the second.

    Raises:
        FlowlitError: with both lists, and the first number that differs.
    """
    if ours is None or theirs is None or tuple(ours) == tuple(theirs):
        return
    both = enumerate(zip(ours, theirs, strict=False))
    first = next((i for i, (a, b) in both if a != b), min(len(ours), len(theirs)))
    a = repr(ours[first]) if first < len(ours) else "none"
    b = repr(theirs[first]) if first < len(theirs) else "none"
    raise FlowlitError(
        f"{who} has the classes {listed(ours)}, {than} {listed(theirs)}: class {first} is {a} here and {b} "
        f"there; {mend or 'number them alike, with classes: [names in this order] for the images'}"
    )


def check_occurring(
    generated: Iterable[int], counts: Mapping[int, int], classes: int, names: Sequence[str] | None, where: str
) -> None:
    """Refuse classes that are generated and have no images to train on, and images of unknown classes.

    Args:
        generated: class numbers.
        counts: images of each class that occurs.
        classes: of the network.
        names: of the classes, if they are known.
        where: the images are, for the error.

    Raises:
        FlowlitError: naming the classes.
    """
    beyond = sorted(label for label in counts if not 0 <= label < classes)
    if beyond:
        raise FlowlitError(
            f"labels of {where} run from {min(counts)} to {max(counts)}, but the network knows {classes} "
            f"classes; give it num_classes: {max(counts) + 1}"
        )
    missing = [label for label in generated if not counts.get(label)]
    if missing:
        known = names or ()
        texts = [f"{label} ({known[label]})" if label < len(known) else str(label) for label in missing]
        noun, verb = ("classes", "do") if len(missing) > 1 else ("class", "does")
        raise FlowlitError(
            f"{noun} {listed(texts)[1:-1]} of {classes} {verb} not occur in {where}, but would be generated; "
            "number those that do from 0 and set num_classes to their count, or add images"
        )


def names_in(place: str) -> tuple[str, ...]:
    """Return the names of the classes of a folder or a zip of images.

    Raises:
        FlowlitError: if it has none.
    """
    if Path(place).is_dir():
        names = numbered(sub_folders(Path(place)))
    else:
        check_file(place, "classes in", "name a folder or zip of images, or give a list")
        try:
            with zipfile.ZipFile(place) as archive:
                names = tuple(_parsed(archive, place).classes or ())
        except (zipfile.BadZipFile, OSError) as error:
            raise FlowlitError(f"classes in {place} cannot be read ({error}); give a list") from error
    if not names:
        raise FlowlitError(f"{place} has no names of classes; give a list, as classes: [cat, dog]")
    return names


def read_labels(
    archive: zipfile.ZipFile, path: str, images: Sequence[str]
) -> tuple[list[int], tuple[str, ...] | None]:
    """Return the labels of images in a zip, in the order of their names, and the names of the classes.

    Raises:
        FlowlitError: if ``dataset.json`` is missing or damaged, or does not name each image once.
    """
    parsed = _parsed(archive, path)
    numbers = dict(parsed.labels or ())
    unlabelled = set(images) - set(numbers)
    unknown = set(numbers) - set(images)
    if unlabelled or unknown:
        what = "has no label for" if unlabelled else "names images that the zip does not hold:"
        names = unlabelled or unknown
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise FlowlitError(f"{path}: {LABELS} {what} {min(names)}{more}; set labels: false or repair it")
    return [numbers[name] for name in images], tuple(parsed.classes) if parsed.classes else None


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
