"""Classes of images: their names, and the numbers that these have."""

from __future__ import annotations

import reprlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._support.wrapped import first_inside
from ..errors import FlowlitError
from ..ranges import as_whole
from .listing import sub_folders

Classes = list[str | int] | str | None
"""Argument of sets of images: names of class 0, 1, …, or a folder or zip whose classes these are."""

SHOWN = 12
"""Names that a message lists at most."""


def spelt(name: str) -> str:
    r"""Return a name in the spelling that names are compared in: NFC, and bytes that are no UTF-8 escaped.

    File systems spell the same é as one sign, or as two.

    >>> spelt("e\N{COMBINING ACUTE ACCENT}") == "\N{LATIN SMALL LETTER E WITH ACUTE}", spelt("\udce9")
    (True, '\\udce9')
    """
    return unicodedata.normalize("NFC", name.encode(errors="backslashreplace").decode())


def classes_in(root: str | Path, where: str) -> tuple[str, ...]:
    """Return the names of class 0, 1, … of a folder: those of its sub-folders, empty ones included.

    Raises:
        FlowlitError: if two of them look alike.
    """
    names = sub_folders(Path(root))
    check_distinct(names, where)
    return numbered(names)


def check_distinct(names: Iterable[str], where: str) -> None:
    """Refuse names of classes that differ in what is not seen: spelling in Unicode, blanks, signs without
    width.

    Raises:
        FlowlitError: naming both.
    """
    seen: dict[str, str] = {}
    for name in names:
        visible = (sign for sign in spelt(name) if unicodedata.category(sign) != "Cf")
        other = seen.setdefault(" ".join("".join(visible).split()), name)
        if other != name:
            raise FlowlitError(
                f"{where}: the classes {other!a} and {name!a} look alike; rename one, or put their images "
                "into one folder"
            )


def numbered(names: Iterable[str]) -> tuple[str, ...]:
    """Return names in the order of their numbers: as numbers if all are numeric, by alphabet otherwise.

    >>> numbered(["10", "2", "1"]), numbered(["10b", "2b"])
    (('1', '2', '10'), ('10b', '2b'))
    """
    texts = set(map(spelt, names))
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
    check_distinct(dict.fromkeys(map(str, texts)), where)
    names = tuple(spelt(str(text)) for text in texts)
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
    names = first_inside(network, "class_names")
    return None if names is None else tuple(map(spelt, names))


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
    if ours is None or theirs is None:
        return
    ours, theirs = ([spelt(name) for name in names] for names in (ours, theirs))
    if ours == theirs:
        return
    both = enumerate(zip(ours, theirs, strict=False))
    first = next((i for i, (a, b) in both if a != b), min(len(ours), len(theirs)))
    a = repr(ours[first]) if first < len(ours) else "none"
    b = repr(theirs[first]) if first < len(theirs) else "none"
    raise FlowlitError(
        f"{who} has the classes {listed(ours)}, {than} {listed(theirs)}: class {first} is {a} here and {b} "
        f"there; {mend or 'number them alike, with classes: [names in this order] for the images'}"
    )


def rows_of_classes(labels: Sequence[np.ndarray], only: Sequence[int], where: str) -> np.ndarray:
    """Return the rows, in order, whose labels are some classes; labels come in parts (rows,).

    Raises:
        FlowlitError: naming a class that does not occur.
    """
    occurring = set(np.unique(np.concatenate([*labels, np.empty(0, np.int64)])).tolist())
    if not only or not occurring.issuperset(only):
        has = f"classes {listed([*map(str, sorted(occurring))])}" if occurring else "no labels"
        raise FlowlitError(f"{where}: only is {list(only)}; expected some of its classes, and it has {has}")
    return np.flatnonzero(np.isin(np.concatenate(labels), only))


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
            "number those that do from 0 and set num_classes to their count, generate those alone "
            "(data.noise.only), or add images"
        )
