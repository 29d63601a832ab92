"""Classes of the data that a network is trained on, compared with those of other data and of checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from ..couplings import SeededNoise
from ..data.classes import check_occurring, check_same_names, class_names_of, listed, numbered
from ..types import classes_of


def names_of(rows: Any) -> tuple[str, ...] | None:
    """Return the names of the classes of a data set; None if it has none."""
    names = getattr(rows, "classes", None)
    texts = isinstance(names, (tuple, list)) and all(isinstance(name, str) for name in names)
    return tuple(names) if names and texts else None


def counts_of(rows: Any) -> Mapping[int, int] | None:
    """Return how many rows each class has that occurs in a data set; None if that is not known at once."""
    counts = getattr(rows, "label_counts", None)
    return counts() if callable(counts) else None


def trained_names(data: Any) -> tuple[str, ...] | None:
    """Return the names of the classes that a data module trains on, once it is open; None if they have none.

    Pairs that a teacher makes have the classes of the teacher.
    """
    teacher = getattr(getattr(data, "coupling", None), "teacher", None)
    return names_of(getattr(data, "pairs", None)) or class_names_of(teacher)


def take_names(network: nn.Module, data: Any, training: bool) -> None:
    """Give a network the names of the classes that it is trained on, and refuse other ones in validation.

    Args:
        network: whose attribute ``class_names`` is set.
        data: the data module, once it is open.
        training: whether this is a fit.

    Raises:
        FlowlitError: if a number is another class in validation.
    """
    validation = names_of(getattr(data, "validation", None))
    if training:
        names = trained_names(data)
        check_same_names(validation, names, "data.validation", "the training data")
        if names is not None:
            network.class_names = names  # type: ignore[assignment]
    check_same_names(validation, class_names_of(network), "data.validation", "the network's training data")


def compare_with_checkpoint(
    network: nn.Module, checkpoint: Mapping[str, Any], data: Any, training: bool
) -> None:
    """Refuse to go on with other classes than before; a network that only generates takes their names.

    Args:
        network: that the checkpoint is for.
        checkpoint: its content.
        data: the data module, once it is open; or None.
        training: whether this is a fit.

    Raises:
        FlowlitError: if a number is another class than in the checkpoint.
    """
    names = (checkpoint.get("flowlit") or {}).get("class_names")
    if not training:
        known = class_names_of(network) if names is None else tuple(names)
        network.class_names = known  # type: ignore[assignment]
        validation = names_of(getattr(data, "validation", None))
        check_same_names(validation, class_names_of(network), "data.validation", "the checkpoint")
        return
    ours = trained_names(data)
    check_same_names(ours, names, "the training data", "the checkpoint")
    if names is None and ours is not None and ours == numbered(ours) and list(ours) != sorted(ours):
        rank_zero_warn(
            f"the checkpoint does not say which classes it was trained on; these are {listed(ours)}, and "
            f"earlier versions numbered them by alphabet, {listed(sorted(ours))}: if one of these wrote "
            "it, give the images classes: [names in that order]"
        )


def check_classes(network: nn.Module, data: Any) -> None:
    """Refuse classes that would be generated without having been trained, see ``check_occurring``.

    Args:
        network: that is trained.
        data: the data module, once it is open.

    Raises:
        FlowlitError: naming the classes.
    """
    noise: Any = getattr(data, "noise", None)
    classes = classes_of(network)
    if classes is None:
        classes = getattr(noise, "num_classes", 0)
    counts = counts_of(getattr(data, "pairs", None)) if classes else None
    if not counts:
        return
    chosen = isinstance(noise, SeededNoise) and (noise.labels is not None or noise.only is not None)
    generated = noise.label_counts() or () if chosen else range(classes)
    check_occurring(generated, counts, classes, class_names_of(network), data.coupling.source)
