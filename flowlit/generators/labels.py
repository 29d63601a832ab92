"""Labels of a generator: numbers or names of classes."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.classes import spelt
from ..errors import FlowlitError
from .inputs import whole_number


def one_of(label: Any, labels: Any) -> Any:
    """Return the labels that are given by either of two names.

    Raises:
        FlowlitError: for both.
    """
    if label is not None and labels is not None:
        raise FlowlitError("label and labels are both given, and mean the same; leave label out")
    return label if labels is None else labels


def labels_of(label: Any, num_classes: int, names: Sequence[str] | None) -> int | list[int]:
    """Return class numbers: one for all images, or one for each.

    Args:
        label: a number or a name, or a sequence of them.
        num_classes: of the network.
        names: of its classes, if they are known.

    Raises:
        FlowlitError: for a network without classes, and for a class that it does not have.
    """
    if not num_classes:
        raise FlowlitError(f"label is {reprlib.repr(label)}, but the network has no classes; leave label out")
    if isinstance(label, str):
        return _named_class(label, names)
    single = isinstance(label, (int, float, bool, np.generic)) or getattr(label, "ndim", 1) == 0
    if single or not isinstance(label, (Sequence, np.ndarray, Tensor)):
        return whole_number(label, "label", 0, num_classes - 1)
    return [
        _named_class(one, names) if isinstance(one, str) else whole_number(one, "label", 0, num_classes - 1)
        for one in label
    ]


def _named_class(name: str, names: Sequence[str] | None) -> int:
    if names is None:
        raise FlowlitError(f"label is {name!r}, but the classes of this network have no names; give a number")
    spellings = list(map(spelt, names))
    if spelt(name) not in spellings:
        shown = ", ".join(names[:20]) + (" …" if len(names) > 20 else "")
        raise FlowlitError(f"label is {name!r}, which is none of its {len(names)} classes: {shown}")
    return spellings.index(spelt(name))


def each_label(labels: Any, num: int, num_classes: int, names: Sequence[str] | None) -> list[int]:
    """Return a class number for each of ``num`` images; see ``labels_of``.

    Raises:
        FlowlitError: likewise, and for another number of labels.
    """
    numbers = labels_of(labels, num_classes, names)
    if isinstance(numbers, int):
        return [numbers] * num
    check_number(numbers, num)
    return numbers


def check_number(labels: Sequence[int], num: int) -> None:
    """Refuse labels that are not one for each of ``num`` images.

    Raises:
        FlowlitError: with both numbers.
    """
    if len(labels) != num:
        raise FlowlitError(f"{len(labels)} labels for {num} images; give one for each, or one for all")


def labelled(cond: Any, labels: Any, num: int, num_classes: int, names: Sequence[str] | None) -> Any:
    """Return conditions with the classes of ``num`` images as their "label"; as they are if there are none.

    Raises:
        FlowlitError: as ``each_label``, and for labels that are given in both.
    """
    if labels is None or not isinstance(cond, Mapping):  # which is refused later
        return cond
    if "label" in cond:
        raise FlowlitError('labels are given, and cond has a "label" as well; leave one of them out')
    return {**cond, "label": torch.tensor(each_label(labels, num, num_classes, names))}
