"""Stored pairs of several kinds in given shares: a teacher's pairs, and real images that it inverted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import Dataset

from .. import rng
from ..data.classes import check_same_names
from ..data.provenance import shared
from ..errors import FlowlitError
from ..ranges import PositiveFloat
from ..types import Codec, Coupling, Pair
from .cached import Cached
from .flip import flip
from .store.encoding import restored_pair
from .store.reader import StoredPairs

TOLERANCE = 0.01
"""How far, of itself, a share may be from the wanted one, so that all rows of a part come equally often."""


def repeats(rows: Sequence[int], shares: Sequence[float]) -> list[int]:
    """Return how often each row of each part comes in a pass, at least once: the smallest numbers that give
    the shares.

    The shares are met within 1 % of themselves: exactly where small whole numbers can.

    >>> repeats([9000, 200], [0.9, 0.1])
    [1, 5]
    """
    wanted = np.array(shares, float) / np.sum(shares)
    often = wanted / rows
    for least in range(1, int(1 / TOLERANCE) + 1):
        times = np.rint(least * often / often.min())  # rounding changes 1 / (2 least) of a number at most
        if np.abs(times * rows / np.sum(times * rows) / wanted - 1).max() <= TOLERANCE:
            break
    return [int(number) for number in times]


class Mixture(NamedTuple):
    """A batch whose rows are still sorted by part, each in the dtypes of its store."""

    place: Tensor  # (B,) int64: row i of the batch is row place[i] of the pairs put one after the other
    mirrored: Tensor  # (B,) bool: whether row i may be mirrored
    pairs: tuple[Pair, ...]


class MixedPairs(Dataset):
    """Rows of several sets of pairs as one set, in which each row of part k occurs ``repeats[k]`` times; in
    constant memory.

    An item is a ``Pair``, a batch a ``Mixture``.
    """

    def __init__(self, parts: Sequence[StoredPairs], shares: Sequence[float], mirrored: Sequence[bool]):
        self.parts = parts
        self.mirrored = np.array(mirrored)
        self.rows = np.array([len(part) for part in parts])
        self.ends = np.cumsum(self.rows * repeats(self.rows.tolist(), shares))
        self.shape = parts[0].shape
        self.num_classes = parts[0].num_classes
        self.name = " and ".join(part.name for part in parts)
        self.trained_on = shared([part.trained_on for part in parts])
        self.text = parts[0].text
        self.classes = next((part.classes for part in parts if part.classes is not None), None)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def label_counts(self) -> Counter[int] | None:
        """Return how many stored pairs each class has; None without classes."""
        counts = [part.label_counts() for part in self.parts]
        return sum((count for count in counts if count), Counter()) if self.num_classes else None

    def find(self, indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Part, and row within it, of each index."""
        places = np.asarray(indices, np.int64)
        part = np.searchsorted(self.ends, places, side="right")
        return part, (places - np.concatenate([[0], self.ends])[part]) % self.rows[part]

    def __getitem__(self, index: int) -> Pair:
        part, row = self.find([index])
        return self.parts[int(part[0])][int(row[0])]

    def __getitems__(self, indices: Sequence[int]) -> Mixture:
        part, row = self.find(indices)
        pairs = tuple(self.parts[k].__getitems__(row[part == k].tolist()) for k in np.unique(part).tolist())
        place = np.argsort(np.argsort(part, kind="stable"), kind="stable")
        return Mixture(torch.from_numpy(place), torch.from_numpy(self.mirrored[part]), pairs)


class Mixed(Coupling):
    """Train on several kinds of stored pairs at once, in given shares; a part that is short is repeated.

    Use it to add real images, inverted by the teacher (``flowlit couple --origin data``), to the teacher's
    own pairs, as Lee et al. 2024 (2405.20320) do in a last phase. Stores that are parts of one set belong in
    one ``Cached``, as a list.

    Args:
        parts: ``Cached`` couplings of the same shape and classes, each with its own dtypes, limit and flip;
            not resident.
        shares: one for each part, of all rows of a pass; relative to their sum.
    """

    def __init__(self, parts: list[Cached], shares: list[PositiveFloat]):
        self.parts = parts
        self.shares = shares
        if len(parts) != len(shares) or not parts:
            raise FlowlitError(
                f"Mixed: {len(parts)} parts, but shares {shares}; expected a positive number for each part"
            )

    def dataset(self) -> Dataset:
        stored = [_opened(part) for part in self.parts]
        self.generates = any(part.generates for part in self.parts)
        first = stored[0]
        for other in stored[1:]:
            if (other.shape, other.num_classes) != (first.shape, first.num_classes):
                raise FlowlitError(
                    f"Mixed: {other.name} have shape {other.shape} and {other.num_classes} classes, but "
                    f"{first.name} {first.shape} and {first.num_classes}; only equal ones can be mixed"
                )
            check_same_names(other.classes, first.classes, f"Mixed: {other.name}", first.name)
            if other.conditions != first.conditions:
                raise FlowlitError(
                    f"Mixed: {other.name} have the conditions {', '.join(other.conditions) or 'none'}, but "
                    f"{first.name} {', '.join(first.conditions) or 'none'}; only equal ones can be mixed"
                )
            if other.text and first.text and other.text.facts["encoder"] != first.text.facts["encoder"]:
                raise FlowlitError(
                    f"Mixed: {other.name} have texts of another encoder than {first.name}; make them with "
                    "the same one (data.noise.encoder)"
                )
        return MixedPairs(stored, self.shares, [part.flip for part in self.parts])

    def check_codec(self, codec: Codec) -> None:
        for part in self.parts:
            part.check_codec(codec)

    def complete(self, batch: Mixture, device: torch.device) -> Pair:
        pairs = map(restored_pair, batch.pairs)
        pair = tree_map(lambda *parts: torch.cat(parts)[batch.place], *pairs)
        if not any(part.flip for part in self.parts):
            return pair
        return flip(pair, batch.mirrored & (rng.rand(len(pair.x0), pair.x0.device) < 0.5))

    @property
    def source(self) -> str:
        return " and ".join(part.source for part in self.parts)


def _opened(part: Cached) -> StoredPairs:
    pairs = part.dataset()
    if part.text_dropout:
        raise FlowlitError(f"Mixed: {part.source} have a text_dropout, which parts cannot; leave it out")
    if not isinstance(pairs, StoredPairs):
        raise FlowlitError(
            f"Mixed: {part.source} are resident, but parts are read from disk; set resident: false"
        )
    return pairs
