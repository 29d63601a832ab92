"""The images that a network was trained on: their name and fingerprint travel with weights and pairs."""

from __future__ import annotations

from typing import Any

from .._support.places import without_folders
from .._support.wrapped import first_inside
from ..types import ImageDataset

Facts = dict[str, Any]
"""name, part and whole (where the set has parts), images (their number) and fingerprint.

``fresh_noise`` is False for networks whose velocity is not that of independent noise and images: those of
pairs, of optimal transport, and generators. ``super_resolution`` is the task of those that enlarge images:
``scale``, and the specs of ``degradation`` and ``start``. ``features`` are networks whose features it was
trained on, which do not judge it: a hash of their weights, and the objective's name.
"""


def described(images: ImageDataset) -> Facts:
    """Return what a set of images is called, and its fingerprint.

    Attributes of classes of other packages may be of any type.

    >>> from flowlit.data import Digits
    >>> described(Digits("test"))["name"], described(Digits("test"))["part"]
    ('Digits', 'test')
    """
    larger = getattr(images, "images", None)
    if isinstance(larger, ImageDataset):  # of which it is a part
        facts = described(larger) | {"images": len(images), "fingerprint": str(images.fingerprint)}
        own = getattr(images, "part", None)
        return facts | ({"part": own} if isinstance(own, str) else {})
    places = getattr(images, "paths", None) or getattr(images, "root", None)
    places = places if isinstance(places, (list, tuple)) else [places]
    name = " ".join([type(images).__name__, *(str(place) for place in places if place)])
    part = getattr(images, "part", None)
    train = getattr(images, "train", None)
    if isinstance(train, bool):
        part = "train" if train else "test"
    parts = {"part": part} if isinstance(part, str) else {}
    content = getattr(images, "whole", None)
    if isinstance(content, str):
        parts["whole"] = content
    return {"name": name, **parts, "images": len(images), "fingerprint": str(images.fingerprint)}


def trained_on(network: Any) -> Facts | None:
    """Return the images that a network was trained on; None if it does not say."""
    return first_inside(network, "trained_on", dict)


def shared(facts: list[Facts | None]) -> Facts | None:
    """Return the images that several things have in common; None if they differ, or one does not say."""
    first = facts[0] if facts else None
    return first if all(each == first for each in facts) else None


def are_other(a: Facts | None, b: Facts | None) -> bool:
    """Return whether two sets are known to be different data; parts of one set, or of its copy, are none.

    Nor are sets of one name of which an earlier version recorded one: it had other fingerprints.
    """
    if not a or not b or a.get("fingerprint") == b.get("fingerprint"):
        return False
    parts = {a.get("part"), b.get("part")}
    wholes = {a.get("whole"), b.get("whole")}
    named_alike = _alike(str(a.get("name")), str(b.get("name")))
    if named_alike and len(wholes) == 2 and None in wholes:
        return False
    copied = len(wholes) == 1 and None not in wholes
    return not (copied or named_alike) or len(parts) == 1 or None in parts


def _alike(a: str, b: str) -> bool:
    """Return whether two names are the same, or one is that of the other to share."""
    return a == b or without_folders(a) == b or a == without_folders(b)


def in_words(facts: Facts) -> str:
    """Return a set of images in words.

    >>> in_words({"name": "ImageFolder cats", "part": "train", "images": 1200, "fingerprint": "3fa29c01d2"})
    'ImageFolder cats (train, 1,200 images, fingerprint 3fa29c01)'
    """
    part = [str(facts["part"])] if facts.get("part") else []
    count = [f"{facts['images']:,} images"] if facts.get("images") else []
    mark = [f"fingerprint {str(facts.get('fingerprint'))[:8]}"]
    return f"{facts.get('name')} ({', '.join([*part, *count, *mark])})"
